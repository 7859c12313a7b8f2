"""The dimensions of the small BERT and of its texts, without torch."""

from __future__ import annotations

__all__ = [
    "HEADS",
    "LAYERS",
    "LONGEST",
    "MEAN_LOG",
    "NORM_EPS",
    "SHORTEST",
    "SPREAD_LOG",
    "VOCABULARY",
    "WIDTH",
    "WORDS",
]

SHORTEST, LONGEST = 8, 400
"""Tokens of a text."""

MEAN_LOG, SPREAD_LOG = 4.0, 0.9
"""The lengths are lognormal: mean and standard deviation of the logarithm of their tokens."""

WORDS = 30_000
"""Token ids of texts are from 1 to below this one."""

VOCABULARY = 30_522
LAYERS, WIDTH, HEADS = 6, 384, 12
NORM_EPS = 1e-5
