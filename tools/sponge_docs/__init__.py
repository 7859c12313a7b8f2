"""Generates the reference pages of the documentation site from the code. MkDocs runs `hook.py` when it builds."""
