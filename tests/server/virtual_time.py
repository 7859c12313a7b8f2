"""Virtual time for asyncio: a loop that never sleeps, and lanes that take exactly as long as a latency model says."""

from __future__ import annotations

import asyncio
import selectors
import struct
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sponge_core.latency import LatencyModel
from sponge_server.workers.interface import (
    Allowance,
    Item,
    ItemError,
    LaneCrashed,
    LaneResult,
    ModelInfo,
    Progress,
    Tensor,
    TensorSpec,
)

T = TypeVar("T")

POISON = -666.0

INFO = ModelInfo(
    name="fake",
    inputs=(TensorSpec("x", "FP32", (1,)),),
    outputs=(TensorSpec("y", "FP32", (1,)),),
    max_batch=16,
    labels=None,
    accepts_images=True,
    warning=None,
    platform="fake",
)


class _Selector(selectors.SelectSelector):
    """Instead of waiting for time to pass, lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen: the test waits for something that nobody does")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.virtual = _Selector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


def run_virtual(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs `scenario(loop)` to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(scenario(loop))


@dataclass
class FakeLane:
    """Echoes input to output after l(b, k) of the batch's model.

    `faults` holds what the next runs do instead: "crash", "hang", "bug". Any batch with an item of the value POISON
    crashes. `ran` holds start, rows, threads and model.
    """

    id: int
    profiles: Sequence[LatencyModel]
    slowness: float = 1.0
    healthy: bool = True
    busy: bool = False
    faults: list[str] = field(default_factory=list)
    ran: list[tuple[float, int, int, int]] = field(default_factory=list)

    async def run(
        self, items: Sequence[Item], threads: int, timeout_s: float | None = None, model: int = 0
    ) -> LaneResult:
        loop = asyncio.get_running_loop()
        self.busy = True
        took = self.profiles[model].latency(len(items), threads) * self.slowness
        self.ran.append((loop.time(), len(items), threads, model))
        try:
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "hang":
                assert timeout_s is not None
                await asyncio.sleep(timeout_s)
                raise LaneCrashed("the lane hung")
            await asyncio.sleep(took)
            if fault == "crash" or any(_value(item) == POISON for item in items):
                raise LaneCrashed("the lane died")
            if fault == "bug":
                raise RuntimeError("unforeseen")
        finally:
            self.busy = False
        return LaneResult(tuple(_echo(item) for item in items), took, took * threads, threads)


def _value(item: Item) -> float | None:
    return None if item.images else struct.unpack_from("<f", item.tensors[0].data)[0]


def _echo(item: Item) -> tuple[Tensor, ...] | ItemError:
    if item.images:
        return ItemError("not an image")
    tensor = item.tensors[0]
    return (Tensor("y", tensor.datatype, tensor.shape, tensor.data),)


class FakePool:
    """Lanes without processes."""

    def __init__(self, lanes: int, *profiles: LatencyModel) -> None:
        self.models = tuple(replace(INFO, name=f"fake{number or ''}") for number in range(len(profiles)))
        self.profiles = profiles
        self.lanes = [FakeLane(number, profiles) for number in range(lanes)]
        self.listeners: list[Callable[[], None]] = []
        self.pids: list[int] = []
        self.lane_pids: list[int] = []

    def add_listener(self, callback: Callable[[], None]) -> None:
        self.listeners.append(callback)

    def changed(self) -> None:
        for listener in self.listeners:
            listener()

    async def start(self, lanes: int) -> None:
        await self.scale(lanes)

    async def scale(self, lanes: int) -> None:
        self.lanes = [*self.lanes[:lanes], *(FakeLane(n, self.profiles) for n in range(len(self.lanes), lanes))]
        self.changed()

    async def warm_up(
        self, batches: Sequence[int], threads: Sequence[int], progress: Progress | None = None, model: int = 0
    ) -> None:
        return

    def keep(self, allowance: Allowance) -> None:
        return

    async def close(self) -> None:
        return
