"""The agent that watches folders, the journal of its publishes, and the files themselves."""
