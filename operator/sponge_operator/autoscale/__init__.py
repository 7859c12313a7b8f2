"""Sizes one pod: observe, recommend, resize."""
