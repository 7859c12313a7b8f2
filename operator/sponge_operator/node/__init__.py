"""Shares a node's CPU among the pods on it."""
