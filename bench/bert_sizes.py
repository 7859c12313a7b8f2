"""The dimensions of the small BERT and of its texts, without torch."""

from __future__ import annotations

__all__ = ["HEADS", "LAYERS", "LONGEST", "NORM_EPS", "SHORTEST", "VOCABULARY", "WIDTH"]

SHORTEST, LONGEST = 8, 400
"""Tokens of a text."""

VOCABULARY = 30_522
LAYERS, WIDTH, HEADS = 6, 384, 12
NORM_EPS = 1e-5
