"""Models that misbehave on demand, for `python://lane_models:NAME` in a fork server."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from sponge_server.models.loaded import LoadedModel
from sponge_server.workers.interface import TensorSpec
from sponge_server.workers.row_size import RowSize

FAIL, HANG, DIE = 1.0, 2.0, 3.0
ORPHAN, FORK, FORK_TWICE, DETACH, LEAK_FILES, LEAK_THREADS = -1.0, -2.0, -3.0, -4.0, -5.0, -6.0

FLAG = "LANE_MODELS_FLAG"
"""Environment variable with the path of a file: while it exists, some models misbehave."""


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
        if FORK_TWICE in moods:
            os.fork()  # both come back
        if (ORPHAN in moods or FORK in moods) and os.fork() == 0:
            time.sleep(3600)  # holds everything open that its parent holds
        if ORPHAN in moods:
            os.kill(os.getpid(), signal.SIGKILL)
        if DETACH in moods:
            detach()
        while LEAK_FILES in moods:
            os.dup(0)
        while LEAK_THREADS in moods:
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        return {"doubled": x, "rows": torch.full((len(x),), len(x))}


def detach() -> None:
    """Leaves a process behind in a session of its own, which is no child of this one."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)


def hang_on_signal() -> None:
    """From now on, SIGUSR1 makes this process hang, and SIGUSR2 makes it compute for a second and a half."""
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
    signal.signal(signal.SIGUSR2, lambda *_: _compute(1.5))


def _compute(for_s: float) -> None:
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        pass


def moody() -> LoadedModel:
    hang_on_signal()
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


def never_loaded() -> LoadedModel:
    time.sleep(3600)
    return moody()


def never_done() -> LoadedModel:
    def forward(x: torch.Tensor) -> torch.Tensor:
        time.sleep(3600)
        return x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (2,)),), "test")


def left_by_a_fork() -> LoadedModel:
    """Forks a child that holds everything open, and dies."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(3)
        return x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (2,)),), "test")


def slow_for_many() -> LoadedModel:
    """Hangs with more than two rows."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            time.sleep(3600)
        return x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (2,)),), "test")


def flagged() -> LoadedModel:
    """Loads unless the flag is up; hangs while it is."""
    if _flag_is_up():
        raise ValueError("the flag is up")

    def forward(x: torch.Tensor) -> torch.Tensor:
        if _flag_is_up():
            time.sleep(3600)
        return x * 2

    return LoadedModel(forward, (TensorSpec("x", "FP32", (-1,)),), "test", ("doubled",))


def squeezed() -> LoadedModel:
    return LoadedModel(lambda x: x.squeeze(), (TensorSpec("x", "FP32", (2,)),), "test")


def not_a_number() -> LoadedModel:
    return LoadedModel(lambda x: x - torch.inf, (TensorSpec("x", "FP32", (2,)),), "test")


def choosy() -> LoadedModel:
    """Fails with more than two rows."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise ValueError("too many for me")
        return x

    return LoadedModel(forward, (TensorSpec("x", "FP32", (2,)),), "test")


def _flag_is_up() -> bool:
    return Path(os.environ[FLAG]).exists()


def filled() -> LoadedModel:
    """Sums each row, and says how many ran with it. Fills up rows with 0, and fails on those longer than 8."""

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.shape[1] > 8:
            raise ValueError("no place beyond 8")
        return x.sum(1, keepdim=True), torch.full((len(x), 1), float(len(x)))

    inputs = (TensorSpec("x", "FP32", (-1,)),)
    return LoadedModel(forward, inputs, "test", ("sum", "rows"), size=RowSize("x", most=8, pad=0))


def misdeclared() -> LoadedModel:
    return replace(filled(), size=RowSize("y", most=8))
