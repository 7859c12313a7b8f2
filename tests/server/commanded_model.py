"""A model that does what its input says: how tests make a real lane slow, crash, hang or fail.

Served as `python://commanded_model:factory`. Input `command`: that many milliseconds of sleep; or one of the constants.
The output repeats the input as floats.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections.abc import Callable

import torch
from lane_models import detach, hang_on_signal

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec

CRASH, FAIL, SEGFAULT, LEAVE, NAN, EAT, SQUEEZE, ORPHAN, DETACH, EAT_SHARED = -1, -2, -3, -4, -5, -6, -7, -8, -9, -10

EATEN = 1 << 30
"""More than a test's memory limit."""


def forward(command: torch.Tensor) -> torch.Tensor:
    told = set(command.flatten().tolist())
    if ORPHAN in told and os.fork() == 0:
        time.sleep(3600)  # holds everything open that its parent held
    if DETACH in told:
        detach()
    if CRASH in told or ORPHAN in told or DETACH in told:
        os._exit(3)
    if SEGFAULT in told:
        ctypes.string_at(0)
    if LEAVE in told:
        sys.exit("told to leave")
    if EAT in told:
        torch.ones(EATEN, dtype=torch.uint8)
    if EAT_SHARED in told:
        shared = mmap.mmap(-1, EATEN)
        for start in range(0, EATEN, mmap.PAGESIZE):
            shared[start] = 1
    if FAIL in told:
        raise ValueError("told to fail")
    time.sleep(max(0.0, float(command.max())) / 1000)
    if SQUEEZE in told:
        return command.sum()
    return torch.where(command == NAN, torch.nan, command.double())


def factory() -> LoadedModel:
    hang_on_signal()
    return _model(forward)


def ailing() -> LoadedModel:
    """Starts well, and fails for every command but zero."""

    def fail(command: torch.Tensor) -> torch.Tensor:
        if command.any():
            raise ValueError("it always fails")
        return command.double()

    return _model(fail)


def greedy() -> LoadedModel:
    """Needs 32 MiB for every row."""
    return _hungry(32 << 20)


def glutton() -> LoadedModel:
    """Needs 1 GiB for every row, but not for none."""
    return _hungry(EATEN)


def _hungry(row_bytes: int) -> LoadedModel:
    def eat(command: torch.Tensor) -> torch.Tensor:
        return torch.ones((len(command), row_bytes), dtype=torch.uint8)[:, :1].double()

    return _model(eat)


def _model(run: Callable[[torch.Tensor], torch.Tensor]) -> LoadedModel:
    """Examples do not sleep."""
    return LoadedModel(run, (TensorSpec("command", "INT64", (1,)),), "test", integers=((0, 0),))
