"""A model with inputs of several datatypes, for `python://conformance_models:NAME`."""

from __future__ import annotations

import time

import torch

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

SLOW = 1000.0
"""A first element of the wide input above this is so many milliseconds more of work."""


def mixed() -> LoadedModel:
    """Doubles each of its inputs."""

    def forward(wide: torch.Tensor, whole: torch.Tensor, half: torch.Tensor) -> dict[str, torch.Tensor]:
        slowest = float(wide[:, 0].max())
        if slowest > SLOW:
            time.sleep((slowest - SLOW) / 1000)
        return {"wide2": wide * 2, "whole2": whole * 2, "half2": half * 2}

    inputs = (TensorSpec("wide", "FP32", (3,)), TensorSpec("whole", "INT64", (2,)), TensorSpec("half", "FP16", (2,)))
    return LoadedModel(forward, inputs, "test")


def brain() -> LoadedModel:
    """Doubles bfloat16."""
    return LoadedModel(lambda x: x * 2, (TensorSpec("brain", "BF16", (4,)),), "test")
