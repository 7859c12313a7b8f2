"""`torchvision://NAME?weights=DEFAULT|none|ENUM`: an image classifier of torchvision, run eagerly.

Input size, normalisation and labels come from the metadata of the model's default weights, which needs no download.
"""

from __future__ import annotations

import difflib
import urllib.error
from pathlib import Path
from typing import Any

import torch

from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import LoadedModel
from sponge_server.models.source import Source
from sponge_server.models.without_compiler import without_compiler
from sponge_server.workers.interface import ModelError, TensorSpec

with without_compiler():
    import torchvision

__all__ = ["load"]

_SEED = 0  # random weights are equal in every process and run


def load(source: Source) -> LoadedModel:
    """Loads the classifier. Raises ModelError for an unknown name or weights, or when the download fails."""
    source.only("weights")
    name = source.target.strip("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.5)) or "resnet18, mobilenet_v3_small"
        raise ModelError(f"torchvision has no classifier '{name}'; close: {close}")
    choices = torchvision.models.get_model_weights(name)
    wanted = source.options.get("weights", "DEFAULT")
    weights = None if wanted == "none" else _weights(name, wanted, choices)
    torch.manual_seed(_SEED)
    try:
        module = torchvision.models.get_model(name, weights=weights)
    except (urllib.error.URLError, OSError) as error:
        raise ModelError(_no_download(name, weights, error)) from None
    except RuntimeError as error:  # a damaged download fails its hash check
        raise ModelError(f"the weights of '{name}' cannot be loaded: {error}") from None
    # The metadata of the default weights: their class order and sizes are the architecture's own.
    described = weights or choices.DEFAULT
    transform = _transform(described.transforms())
    return LoadedModel(
        forward=module.eval().to(memory_format=torch.channels_last),
        inputs=(TensorSpec("input", "FP32", (3, *transform.crop)),),
        platform="pytorch_eager",
        labels=tuple(described.meta["categories"]),
        image=transform,
        channels_last=True,
        warning=None if weights else f"'{name}' has random weights (weights=none): its outputs are meaningless",
    )


def _weights(name: str, wanted: str, choices: Any) -> Any:
    try:
        return choices[wanted]
    except KeyError:
        names = ", ".join(dict.fromkeys(["DEFAULT", "none", *choices.__members__]))
        raise ModelError(f"'{name}' has no weights '{wanted}'; choose one of {names}") from None


def _transform(preset: Any) -> ImageTransform:
    return ImageTransform(
        mode="RGB",
        resize=preset.resize_size[0],
        crop=(preset.crop_size[0], preset.crop_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def _no_download(name: str, weights: Any, error: OSError) -> str:
    cause = getattr(error, "reason", None) or error.strerror or error
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return (
        f"the weights of '{name}' cannot be downloaded ({cause}): "
        f"use torchvision://{name}?weights=none for random ones, or put the file at {place}"
    )
