"""Reproducible experiments. Each figure in the README and the docs comes from one script here."""
