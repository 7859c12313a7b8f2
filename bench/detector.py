"""A detector as an example of a custom model: `python://bench.detector:ssdlite320`, run from the project's folder.

Only the network, without non-maximum suppression. The cost of suppression depends on the boxes found, and random
weights find none or all of them.
"""

from __future__ import annotations

import torch
import torchvision

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

__all__ = ["ssdlite320"]

_SIZE = 320


def ssdlite320() -> LoadedModel:
    """SSDlite on MobileNetV3-Large with random weights: offsets and class scores of every anchor box."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    detector.eval().to(memory_format=torch.channels_last)

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        head = detector.head(list(detector.backbone(images).values()))
        return head["bbox_regression"], head["cls_logits"]

    return LoadedModel(
        forward=forward,
        inputs=(TensorSpec("input", "FP32", (3, _SIZE, _SIZE)),),
        platform="pytorch_eager",
        output_names=("box_offsets", "class_scores"),
        channels_last=True,
        warning="it has random weights, so its answers are meaningless",
    )
