"""The routing rules, one file for each kind."""
