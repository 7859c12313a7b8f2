"""An untrained model with the inputs, outputs and labels of `digits://`, which loads in a fraction of its time.

Served as `python://digits_shaped:factory`, where a test is about the server and not about what the model recognises:
an exported program takes torch several seconds of CPU to load.
"""

from __future__ import annotations

import torch

from sponge_server.models.images import ImageTransform
from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec


def factory() -> LoadedModel:
    nn = torch.nn
    torch.manual_seed(7)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    return LoadedModel(
        forward=network.eval(),
        inputs=(TensorSpec("input", "FP32", (1, 8, 8)),),
        platform="test",
        output_names=("logits",),
        labels=tuple(str(digit) for digit in range(10)),
        image=ImageTransform("L", None, (8, 8), (0.0,), (1.0,)),
    )
