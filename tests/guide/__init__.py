"""A guide to the bus in tests: read the files in the order of their numbers."""
