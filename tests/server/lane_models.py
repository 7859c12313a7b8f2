"""Models that misbehave on demand, for `python://lane_models:NAME` in a fork server."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import torch

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

FAIL, HANG, DIE = 1.0, 2.0, 3.0


class Moody(torch.nn.Module):
    """Doubles its input, in place; the first value of a row says what else happens to the whole batch."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        moods = set(x[:, 0].tolist())
        x.mul_(2)
        if FAIL in moods:
            raise ValueError("a row asked for it")
        if HANG in moods:
            time.sleep(3600)
        if DIE in moods:
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"doubled": x, "rows": torch.full((len(x),), len(x))}


def moody() -> LoadedModel:
    return LoadedModel(Moody(), (TensorSpec("x", "FP32", (-1,)),), "test")


def wide() -> LoadedModel:
    return LoadedModel(lambda v: v.sum(1), (TensorSpec("v", "FP64", (4096,)),), "test")


def hungry() -> LoadedModel:
    """Needs as many MiB as the first value of the first row says, for the time of the batch."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.ones(int(x[0, 0]), 1 << 20, dtype=torch.int8).sum() + x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (1,)),), "test")


def threaded() -> LoadedModel:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return moody()


def deadly() -> LoadedModel:
    def forward(x: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGABRT)
        return x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (2,)),), "test")


def bounded() -> LoadedModel:
    return LoadedModel(lambda x: x, (TensorSpec("x", "FP32", (2,)),), "test", max_batch=4)


def wrong_rows() -> LoadedModel:
    return LoadedModel(lambda x: x.sum(), (TensorSpec("x", "FP32", (2,)),), "test")


def talking() -> LoadedModel:
    def forward(x: torch.Tensor) -> torch.Tensor:
        print("running", file=sys.stderr)
        return x

    print("loading")
    return LoadedModel(forward, (TensorSpec("x", "FP32", (1,)),), "test")


def remembering() -> LoadedModel:
    """Answers with the largest batch that its process has run."""
    seen = [0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen[0] = max(seen[0], len(x))
        return torch.full((len(x),), float(seen[0]))

    return LoadedModel(forward, (TensorSpec("x", "FP32", (1,)),), "test")
