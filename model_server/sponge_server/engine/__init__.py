"""Runs requests: scheduler, engine, and what they know of CPU quota and batch times."""
