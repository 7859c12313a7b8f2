"""Experiments in virtual time, each declared in `catalogue.py`; `make reproduce` runs them and writes docs/experiments.md."""
