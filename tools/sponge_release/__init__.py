"""Keeps the version, the changelog and copied files in order, and prepares a release. Standard library only."""
