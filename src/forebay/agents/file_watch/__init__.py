"""The agent that watches folders, the journal of what it published, and the files themselves."""
