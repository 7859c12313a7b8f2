"""A model with one input and output of every datatype, for `python://typed_models:NAME`."""

from __future__ import annotations

import torch

from sponge_server.models.loaded import TORCH_DTYPE, LoadedModel
from sponge_server.workers.interface import TensorSpec


def every() -> LoadedModel:
    """Returns its inputs, with their names in upper case."""
    names = [kind.lower() for kind in TORCH_DTYPE]

    def forward(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name.upper(): given.clone() for name, given in zip(names, inputs, strict=True)}

    return LoadedModel(forward, tuple(TensorSpec(kind.lower(), kind, (3,)) for kind in TORCH_DTYPE), "test")
