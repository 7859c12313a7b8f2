"""Reproducible experiments: every figure that the README claims, each by one script."""
