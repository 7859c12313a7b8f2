"""From settings to a ready server: load, warm up, profile, and fit memory."""
