"""Trivial models for `bench.http_overhead`: each returns a thousand numbers for any input."""

from __future__ import annotations

import torch

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

__all__ = ["image", "small"]


def _answer(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x), 1000)


def small() -> LoadedModel:
    """Takes sixteen numbers."""
    return LoadedModel(_answer, (TensorSpec("x", "FP32", (16,)),), platform="none")


def image() -> LoadedModel:
    """Takes an image."""
    return LoadedModel(_answer, (TensorSpec("x", "FP32", (3, 224, 224)),), platform="none")
