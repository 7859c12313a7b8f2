"""Reconciles services: children, status, and one controller for each pod."""
