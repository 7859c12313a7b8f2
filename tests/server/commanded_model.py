"""A model that does what its input says: how tests make a real lane slow, crash, hang or fail.

Served as `python://commanded_model:factory`. Input `command`: that many milliseconds of sleep; or one of the constants.
The output repeats the input.
"""

from __future__ import annotations

import os
import time

import torch

from sponge_server.lanes.interface import TensorSpec
from sponge_server.models.loaded import LoadedModel

CRASH, FAIL = -1, -2


def forward(command: torch.Tensor) -> torch.Tensor:
    if bool((command == CRASH).any()):
        os._exit(3)
    if bool((command == FAIL).any()):
        raise ValueError("told to fail")
    time.sleep(float(command.max()) / 1000)
    return command.clone()


def factory() -> LoadedModel:
    return LoadedModel(forward=forward, inputs=(TensorSpec("command", "INT64", (1,)),), platform="test")
