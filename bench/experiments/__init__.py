"""Experiments in virtual time, declared in `catalogue.py`; `make reproduce` runs them all."""
