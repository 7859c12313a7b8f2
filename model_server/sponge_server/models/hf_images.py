"""Image classification with a folder of Hugging Face: its pre-processing as an `ImageTransform`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import ModelError, TensorSpec

if TYPE_CHECKING:
    from sponge_server.models.hf import Folder

__all__ = ["load_images"]

_BILINEAR, _BICUBIC = 2, 3
"""Numbers of Pillow's filters, as preprocessor_config.json has them."""

_CROPPED_BELOW = 384
"""Sizes under which `crop_pct` applies, as in the networks that have it."""


class _Logits(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.network(pixel_values=pixel_values).logits}


def load_images(folder: Folder) -> LoadedModel:
    """Loads a classifier of images. Raises ModelError."""
    transform = _transform(folder)
    shape = (3 if transform.mode == "RGB" else 1, *transform.crop)
    return LoadedModel(
        _Logits(folder.network("image-classification")),
        (TensorSpec("pixel_values", "FP32", shape),),
        "transformers",
        labels=folder.labels or None,
        image=transform,
    )


def _transform(folder: Folder) -> ImageTransform:
    given = folder.json("preprocessor_config.json")
    where = f"'{folder.path / 'preprocessor_config.json'}'"
    channels = int(folder.config.get("num_channels", 3))
    if given.get("do_rescale", True) is False or channels not in (1, 3):
        raise ModelError(f"{where}: images of {channels} channels or without rescaling need a class of your own")
    size = given.get("size", folder.config.get("image_size", 224))
    if isinstance(size, int):
        size = {"shortest_edge": size} if given.get("do_center_crop") else {"height": size, "width": size}
    crop = given.get("crop_size", size) if given.get("do_center_crop") else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    resize = size.get("shortest_edge")
    if resize is not None and "height" not in crop:
        percent = given.get("crop_pct") if resize < _CROPPED_BELOW else None
        crop = {"height": resize, "width": resize}
        resize = int(resize / percent) if percent else resize
    if "height" not in crop or "width" not in crop:
        raise ModelError(f"{where}: size is {size}: give height and width, or shortest_edge")
    normal = given.get("do_normalize", True)
    mean = given.get("image_mean", [0.5] * channels) if normal else [0.0] * channels
    std = given.get("image_std", [0.5] * channels) if normal else [1.0] * channels
    return ImageTransform(
        mode="RGB" if channels == 3 else "L",
        resize=resize,
        crop=(int(crop["height"]), int(crop["width"])),
        mean=tuple(mean),
        std=tuple(std),
        interpolation="bicubic" if given.get("resample", _BILINEAR) == _BICUBIC else "bilinear",
    )
