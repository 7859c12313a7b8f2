"""Versions of a model that tests tell apart: `python://version_models:Version?answer=2`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sponge_server.model import Input, Model

WAIT_FOR = "VERSION_MODELS_WAIT_FOR"
"""Environment variable with the path of a file: a version with `waits` is loaded once it exists."""


class Version(Model):
    """Answers its number, after as many milliseconds as its input says."""

    inputs = (Input("x", "FP32", (1,)),)
    outputs = ("version",)

    def __init__(self, answer: int = 1, waits: bool = False, fails: bool = False, dies: bool = False) -> None:
        self.answer = answer
        self.dies = dies
        while waits and not Path(os.environ[WAIT_FOR]).exists():
            time.sleep(0.01)
        if fails:
            raise ValueError("these weights are torn")

    def predict(self, batch: dict[str, Any]) -> Any:
        if self.dies:
            os._exit(3)
        time.sleep(max(0.0, float(batch["x"].max())) / 1000)
        return np.full((len(batch["x"]), 1), float(self.answer), "f4")


class Wider(Version):
    """Takes two numbers."""

    inputs = (Input("x", "FP32", (2,)),)


class Hungry(Version):
    """Holds as many MiB as it is told, in one piece or more, which numpy or torch allocates."""

    def __init__(self, answer: int = 1, mib: int = 0, pieces: int = 1, of: str = "numpy") -> None:
        super().__init__(answer)
        size = (mib << 20) // pieces
        self.weights = [
            torch.ones(size, dtype=torch.uint8) if of == "torch" else np.ones(size, "u1") for _ in range(pieces)
        ]
