"""Logs, traces, metrics and request statistics."""
