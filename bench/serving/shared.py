"""Shared by every system under test: where files are, and the check of answers.

Without torch, so that the harness and the load generator can import it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CACHE", "TOLERANCE", "Outputs", "Rows", "is_right"]

CACHE = Path.home() / ".cache" / "sponge" / "peers"

TOLERANCE = 1e-3
"""Of the largest number in the reference. Batch sizes, thread counts and runtimes change sums in the sixth digit; a
mixed-up answer differs by far more."""

Outputs = np.ndarray[Any, np.dtype[np.float32]]
Rows = np.ndarray[Any, Any]
"""One batch: the first dimension is the request."""


def is_right(outputs: Outputs, expected: Outputs) -> bool:
    """Whether an answer is the model's, to within what batching, threads and runtimes change."""
    return outputs.shape == expected.shape and bool(
        np.max(np.abs(outputs - expected)) <= TOLERANCE * np.max(np.abs(expected))
    )
