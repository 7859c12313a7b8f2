"""Shared by every system under test: file locations, the inputs, and the check of answers.

Without torch, so that the harness and the load generator can import it; `bench.serving.model` is the part with torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CACHE",
    "INPUTS",
    "INPUT_BYTES",
    "INPUT_SHAPE",
    "REFERENCE",
    "TOLERANCE",
    "WEIGHTS",
    "Logits",
    "input_bodies",
    "is_right",
    "reference_logits",
]

CACHE = Path.home() / ".cache" / "sponge" / "peers"
WEIGHTS = CACHE / "resnet18-seed0.pt"
"""The one state dict that all systems load."""

REFERENCE = CACHE / "resnet18-seed0-logits.npy"

INPUTS = 8
INPUT_SHAPE = (3, 224, 224)
INPUT_BYTES = 4 * 3 * 224 * 224
"""A request is one image as a raw little-endian float32 tensor: 602,112 bytes."""

TOLERANCE = 1e-3
"""Of the largest reference logit. Batch sizes and thread counts change sums in the sixth digit; a mixed-up answer
differs by far more, as the inputs' brightness differs."""

Logits = np.ndarray[Any, np.dtype[np.float32]]


def input_bodies() -> list[bytes]:
    """The inputs, each as it is sent; the same on every machine."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((INPUTS, *INPUT_SHAPE), dtype=np.float32)
    brightness = np.linspace(-2, 2, INPUTS, dtype=np.float32)[:, None, None, None]
    return [image.astype("<f4").tobytes() for image in noise + brightness]


def reference_logits() -> Logits:
    """The right answer to each input, a row each. `python -m bench.serving setup` makes the file."""
    logits: Logits = np.load(REFERENCE)
    return logits


def is_right(logits: Logits, expected: Logits) -> bool:
    """Whether an answer is the model's, to within what batching and threads change."""
    return logits.shape == expected.shape and bool(
        np.max(np.abs(logits - expected)) <= TOLERANCE * np.max(np.abs(expected))
    )
