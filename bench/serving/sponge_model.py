"""The benchmark's model as Sponge takes models of one's own: `python://bench.serving.sponge_model:resnet18`."""

from __future__ import annotations

from bench.serving.model import load_model
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

__all__ = ["resnet18"]


def resnet18() -> LoadedModel:
    """The same weights as every other system's."""
    inputs = (TensorSpec("input", "FP32", (3, 224, 224)),)
    return LoadedModel(load_model(1), inputs, platform="pytorch_eager", channels_last=True)
