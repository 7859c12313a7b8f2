"""From settings to a server that is ready: load, warm up, profile, and fit memory."""
