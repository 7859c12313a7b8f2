"""TorchScript files. They do not say what their inputs look like, so the sidecar must."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import ModelError, TensorSpec

__all__ = ["load_script"]


def load_script(path: Path, sidecar: Path, inputs: Sequence[TensorSpec]) -> LoadedModel:
    """Loads a TorchScript file whose inputs are known.

    Args:
        sidecar: where the description of the inputs is, or should be.
        inputs: as described; empty: not described.

    Raises:
        ModelError: it is none, or its inputs are not described.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is out of date, which whoever has such a file knows
            module = torch.jit.load(path, map_location="cpu").eval()
        arguments = module.forward.schema.arguments[1:]
    except Exception as error:  # noqa: BLE001 - the loader raises anything for broken files
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"'{path}' cannot be loaded as TorchScript ({text}): save it with torch.export.save") from None
    if not inputs:
        needed = [argument.name for argument in arguments if not argument.has_default_value()]
        example = [{"name": name, "datatype": "FP32", "shape": [3, 224, 224]} for name in needed or ["input"]]
        raise ModelError(
            f"'{path}' is TorchScript, which does not say what its inputs look like: write '{sidecar}' with each shape "
            f"without the batch and -1 for any size, for example {json.dumps({'inputs': example})}"
        )
    return LoadedModel(module, tuple(inputs), "pytorch_torchscript")
