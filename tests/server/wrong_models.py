"""Models with one fault each, for `sponge check`: `python://wrong_models:NAME`."""

from __future__ import annotations

import importlib
import os
import threading
import time
from typing import Any

import numpy as np
import torch

from sponge_server.model import Input, Model

X: tuple[Input, ...] = (Input("x", "FP32", (2,)),)
_generator = np.random.default_rng(0)


class Right(Model):
    inputs = X

    def predict(self, batch: dict[str, Any]) -> Any:
        return batch["x"] * 2


class NoInputs(Right):
    inputs = ()


class TextOut(Right):
    def postprocess(self, result: Any) -> Any:
        return "positive"


class NothingOut(Right):
    def postprocess(self, result: Any) -> Any:
        print(len(result))


class OneForAll(Right):
    def postprocess(self, result: Any) -> Any:
        return result.mean()


class ComplexOut(Right):
    def postprocess(self, result: Any) -> Any:
        return torch.fft.fft(torch.as_tensor(result))


class WrongType(Right):
    """Declares another type than its network takes."""

    inputs = (Input("x", "FP64", (2,)),)

    def predict(self, batch: dict[str, Any]) -> Any:
        return torch.nn.Linear(2, 2)(torch.as_tensor(batch["x"]))


class WrongShape(Right):
    def predict(self, batch: dict[str, Any]) -> Any:
        return torch.nn.Linear(3, 2)(torch.as_tensor(batch["x"]))


class NamesTooMany(Right):
    outputs = ("a", "b")


class NeverReady(Right):
    def setup(self) -> None:
        raise FileNotFoundError("vocabulary.txt")


class Ragged(Right):
    def postprocess(self, result: Any) -> Any:
        return [[0.0] * (row + 1) for row in range(len(result) + 1)][1:]


class FewRows(Right):
    max_batch = 2


class NeedsPackage(Right):
    def __init__(self) -> None:
        importlib.import_module("a_package_that_is_not_there")


class NotFinite(Right):
    def predict(self, batch: dict[str, Any]) -> Any:
        return batch["x"] - np.inf


class Random(Right):
    def predict(self, batch: dict[str, Any]) -> Any:
        return batch["x"] + _generator.random(batch["x"].shape, dtype=np.float32)


class Mixed(Right):
    """Normalises over the batch, as a network in training mode does."""

    def predict(self, batch: dict[str, Any]) -> Any:
        return batch["x"] - batch["x"].mean(0)


class Hungry(Right):
    def __init__(self) -> None:
        self.weights = np.ones(1 << 31, dtype=np.uint8)


class Dies(Right):
    def predict(self, batch: dict[str, Any]) -> Any:
        os._exit(7)


class Hangs(Right):
    def predict(self, batch: dict[str, Any]) -> Any:
        time.sleep(3600)


class Busy(Right):
    """Computes in threads of its own."""

    def predict(self, batch: dict[str, Any]) -> Any:
        a = np.ones((400, 400))
        workers = [threading.Thread(target=lambda: [a @ a for _ in range(8)]) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return batch["x"]
