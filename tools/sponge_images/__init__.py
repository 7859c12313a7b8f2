"""Builds the images, and tries them on a real kind cluster. `make images` and `make test-kind` run it."""
