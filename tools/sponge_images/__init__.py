"""Builds the images of operator and server. `make images` runs it."""
