"""Fixtures of the tests of a whole front."""

from front_kit import pods

__all__ = ["pods"]
