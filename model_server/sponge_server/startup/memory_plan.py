"""Memory plan: measures at startup how much memory lanes and batches need, and how many fit the memory limit.

It runs example batches of growing size on the first lane and reads the lane's memory after each, while the lane still
holds everything that the batch needed. It stops before a size that would not fit. Later, a lane that keeps more than
its share gives free memory back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sponge_core.errors import SpongeError
from sponge_server.memory_account import account_bytes
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import (
    ItemError,
    Lane,
    LaneCrashed,
    LaneHung,
    LanePool,
    ModelError,
    ModelInfo,
    NotFiniteError,
    TensorSpec,
    element_bytes,
)
from sponge_system.cgroup import own_cgroup, read_memory_limit, read_oom_kills
from sponge_system.logs import event
from sponge_system.memory_growth import RESERVE_BYTES, unlimit_growth
from sponge_system.oom_score import FORK_SERVER, LANE, set_oom_score
from sponge_system.process_memory import MemoryModel, anonymous_bytes, private_bytes

__all__ = [
    "Fitted",
    "MemoryLimitError",
    "account_limit",
    "fit_memory",
    "lift_guard",
    "measure_memory",
    "memory_limit",
    "oom_kills",
    "ran_out",
]

log = logging.getLogger(__name__)

_REPLACED_POLL_S = 0.05
_NO_MEMORY = ("allocate memory", "Unable to allocate", "MemoryError", "bad_alloc", "out of memory")
"""What torch, the system, numpy, Python and C++ say when an allocation fails."""
_MIB = 1 << 20


class MemoryLimitError(SpongeError):
    """The memory limit is too small for the server with its smallest batch."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the memory limit allows.

    Attributes:
        model: memory by lanes and rows; None where the kernel does not report the memory of processes.
        limit_bytes: the memory limit; None without one.
        started_bytes: memory of a lane before its first batch.
        lanes: the requested lanes, or the fewer that fit.
        batches: the largest batch of every model of the pool.
        server_bytes: what of the memory is the server's own process, which every pool shares.
    """

    model: MemoryModel | None
    limit_bytes: int | None
    started_bytes: int
    lanes: int
    batches: tuple[int, ...]
    server_bytes: int = 0

    def beside(self, other: Fitted) -> Fitted:
        """What both need at once, in processes of their own."""
        if self.model is None or other.model is None:
            return replace(self, model=None)
        model = MemoryModel(
            self.model.base_bytes + max(0, other.model.base_bytes - other.server_bytes),
            self.model.lane_bytes + other.model.lane_bytes,
            self.model.item_bytes + other.model.item_bytes,
        )
        batches = (*self.batches, *other.batches)
        return replace(self, model=model, started_bytes=self.started_bytes + other.started_bytes, batches=batches)

    @property
    def need_bytes(self) -> int:
        """What the lanes need with the largest batch, server and reserve included; 0 where it was not measured."""
        return 0 if self.model is None else self.model.need(self.lanes, max(self.batches)) + RESERVE_BYTES

    @property
    def most_lanes(self) -> int:
        """The most lanes that fit with these batches, for a larger size later."""
        if self.model is None or self.limit_bytes is None:
            return sys.maxsize
        each = self.model.lane_bytes + self.model.item_bytes * max(self.batches)
        return max(self.lanes, self.model.room(self.limit_bytes) // max(1, each))

    def keep_bytes(self, lanes: int) -> int | None:
        """Memory that each of `lanes` lanes may keep between two batches, beyond what it started with.

        The next batch then fits into the lane's share of the limit. None: the lane may keep everything.
        """
        if self.model is None or self.limit_bytes is None:
            return None
        share = self.model.room(self.limit_bytes) // lanes
        return max(0, share - self.started_bytes - self.model.item_bytes * max(self.batches))


def memory_limit() -> int | None:
    """The memory limit of this process's cgroup, in bytes; None when there is none."""
    cgroup = own_cgroup("memory")
    return None if cgroup is None else read_memory_limit(cgroup)


def ran_out(error: SpongeError, killed: int) -> bool:
    """Whether a load failed for lack of memory without saying so: an allocation failed, or the kernel killed a process.

    Args:
        killed: `oom_kills` before the load.
    """
    return not isinstance(error, MemoryLimitError) and (oom_kills() > killed or _lacks_memory(error))


def lift_guard(pool: LanePool) -> None:
    """From now on, the processes of a guarded pool may grow: what they need is known, and fits. Next they serve."""
    lanes = pool.lane_pids
    for pid in pool.pids:
        unlimit_growth(pid)
        set_oom_score(pid, LANE if pid in lanes else FORK_SERVER)


def account_limit(given: int | None) -> int:
    """Bytes of the account of requests: as given, else a part of this process's memory limit."""
    return account_bytes(memory_limit()) if given is None else given


def oom_kills() -> int:
    """Number of processes of this cgroup that the kernel has killed because memory ran out."""
    cgroup = own_cgroup("memory")
    return 0 if cgroup is None else read_oom_kills(cgroup)


async def fit_memory(
    pool: LanePool, lanes: int, threads: int, request_bytes: int, example_s: float, taken_bytes: int = 0
) -> Fitted:
    """Measures on the pool's only lane how many lanes and how large batches fit.

    Args:
        lanes: requested lanes.
        request_bytes: the account of requests; what exceeds the reserve counts as memory of the server.
        threads: threads of the example batches.
        example_s: longest time for one of them, in seconds.
        taken_bytes: what another pool needs of the memory limit.

    Raises:
        MemoryLimitError: not even one lane with a batch of 1 fits.
        ModelError: an example batch failed for another reason than memory, or took too long.
    """
    limit = memory_limit()
    if limit is not None:
        limit -= taken_bytes
    wanted = [info.max_batch for info in pool.models]
    started = private_bytes(pool.lane_pids[0]) if pool.lane_pids else None
    model, reached = await measure_memory(pool, threads, limit, example_s)
    if model is None or started is None:
        event(log, "memory.unknown", logging.WARNING, limit_mib=_mib(limit))
        return Fitted(None, limit, 0, lanes, tuple(wanted))
    requests = max(0, request_bytes - RESERVE_BYTES)
    model = replace(model, base_bytes=model.base_bytes + requests)
    server = (anonymous_bytes(os.getpid()) or 0) + requests
    fits = (lanes, max(wanted)) if limit is None else model.fit(limit, lanes, max(wanted))
    if fits is None:
        assert limit is not None
        raise MemoryLimitError(_refusal(model, limit))
    batches = tuple(min(size, most, fits[1]) for size, most in zip(wanted, reached, strict=True))
    event(
        log,
        "memory.measured",
        base_mib=_mib(model.base_bytes),
        lane_mib=_mib(model.lane_bytes),
        item_mib=_mib(model.item_bytes),
        limit_mib=_mib(limit),
        need_mib=_mib(model.need(fits[0], max(batches))),
        lanes=fits[0],
        max_batch=max(batches),
    )
    if fits[0] < lanes or list(batches) != wanted:
        event(
            log,
            "memory.limits_the_server",
            logging.WARNING,
            wanted_lanes=lanes,
            wanted_batch=max(wanted),
            lanes=fits[0],
            max_batch=max(batches),
            enough_mib=_mib(model.need(lanes, max(wanted)) + RESERVE_BYTES),
        )
    return Fitted(model, limit, started, fits[0], batches, server)


async def measure_memory(
    pool: LanePool, threads: int, limit: int | None, example_s: float
) -> tuple[MemoryModel | None, tuple[int, ...]]:
    """The memory model of the pool, and the largest batch of every model that ran within the limit, in bytes.

    Raises MemoryLimitError when a batch of 1 did not run because memory ran out, else as `fit_memory`.
    """
    run = _ExampleRuns(pool, threads, example_s)
    reached = [info.max_batch for info in pool.models]
    pids = pool.pids
    base = [anonymous_bytes(pid) for pid in (os.getpid(), *pids[:1])]
    if len(pids) < 2 or None in base:
        return None, tuple(reached)
    base_bytes = sum(size for size in base if size is not None)
    found: MemoryModel | None = None
    for index, info in enumerate(pool.models):
        points: list[tuple[int, int]] = []
        if info.opened_by_threads:  # what a lane opens for a thread count stays, so it is part of the lane's memory
            await run.open_all(index)
        for batch in _sizes(info.max_batch):
            known = MemoryModel.of(base_bytes, points, _row_bytes(info)) if len(points) >= 2 else None
            if known is not None and limit is not None and known.need(1, batch) + RESERVE_BYTES > limit:
                break
            used = await run.lane_bytes_after(index, batch)
            if used is None:
                if not points:
                    room = "this machine's memory" if limit is None else f"the memory limit of {_mib(limit):g} MiB"
                    raise MemoryLimitError(
                        f"{room} is too small for a batch of 1 of {info.name}, which ran out of it; raise the limit"
                    )
                reached[index] = points[-1][0]
                break
            points.append((batch, used))
        own = MemoryModel.of(base_bytes, points, _row_bytes(info))
        # A lane runs one batch at a time and keeps its memory for the next one, of any model.
        found = (
            own
            if found is None
            else MemoryModel(base_bytes, max(found.lane_bytes, own.lane_bytes), max(found.item_bytes, own.item_bytes))
        )
    return found, tuple(reached)


class _ExampleRuns:
    """Runs example batches on the pool's first lane."""

    def __init__(self, pool: LanePool, threads: int, limit_s: float) -> None:
        self._pool = pool
        self._threads = threads
        self._limit_s = limit_s

    async def lane_bytes_after(self, model: int, batch: int) -> int | None:
        """The lane's own memory after a batch of this size, without leftovers of earlier ones; None: out of memory."""
        pool = self._pool
        pool.keep(lambda _: 0)
        emptied = await self._fits(model, 1)
        pool.keep(lambda _: None)
        return private_bytes(pool.lane_pids[0]) if emptied and await self._fits(model, batch) else None

    async def open_all(self, model: int) -> None:
        """Runs a batch of 1 on each thread count, as far as memory allows."""
        for threads in range(1, self._threads + 1):
            if not await self._fits(model, 1, threads):
                return

    async def _fits(self, model: int, batch: int, threads: int | None = None) -> bool:
        """Whether a batch ran, and not out of memory; a killed lane has been replaced on return. Raises ModelError."""
        info, lane = self._pool.models[model], self._pool.lanes[0]
        killed = oom_kills()
        example = [example_item(info, batch, None if info.size is None else info.size.most)]
        try:
            result = await lane.run(example, threads or self._threads, self._limit_s, model)
        except LaneHung:
            text = f"model {info.name} did not finish an example batch of {batch} within {self._limit_s:g} s"
            raise ModelError(f"{text}: it hangs, or it needs more CPU or a larger --example-s") from None
        except LaneCrashed:
            if oom_kills() == killed:
                text = f"model {info.name} ended its process on an example batch of {batch}"
                raise ModelError(f"{text}: its output and the event lane.ended in the log say why") from None
            await self._until_replaced(lane)
            return False
        failed = result.outputs[0]
        if not isinstance(failed, ItemError) or isinstance(failed, NotFiniteError):  # those numbers took their memory
            return True
        if not _lacks_memory(failed):
            raise ModelError(f"model {info.name} fails on an example batch of {batch}: {failed}")
        event(log, "memory.batch_failed", logging.WARNING, rows=batch, error=failed)
        return False

    async def _until_replaced(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                while not lane.healthy:  # noqa: ASYNC110 - the pool replaces it
                    await asyncio.sleep(_REPLACED_POLL_S)
        except TimeoutError:
            text = f"a lane that ran out of memory was not replaced within {self._limit_s:g} s"
            raise MemoryLimitError(f"{text}: raise the memory limit") from None


def _lacks_memory(error: SpongeError) -> bool:
    """Whether the error of a model says that an allocation failed."""
    return any(said in str(error) for said in _NO_MEMORY)


def _sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most`, ascending."""
    return sorted({most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)})


def _row_bytes(info: ModelInfo) -> int:
    """Bytes of inputs and outputs of a row, which are in memory that server and lane share."""
    any_size = info.any_size if info.size is None else info.size.most
    return sum(_spec_bytes(spec, any_size) for spec in (*info.inputs, *info.outputs))


def _spec_bytes(spec: TensorSpec, any_size: int) -> int:
    sizes: Sequence[int] = [any_size if size < 0 else size for size in spec.shape]
    return math.prod(sizes) * element_bytes(spec.datatype)


def _refusal(model: MemoryModel, limit: int) -> str:
    least = model.need(1, 1) + RESERVE_BYTES
    return (
        f"the memory limit of {_mib(limit):g} MiB is too small for one lane with a batch of 1, which needs "
        f"{_mib(least):g} MiB ({_mib(model.base_bytes):g} for server and model, {_mib(model.lane_bytes):g} a lane, "
        f"{_mib(model.item_bytes):g} a row, {_mib(RESERVE_BYTES):g} in reserve): raise the limit, spec.memory in a "
        "SpongeService, to at least that"
    )


def _mib(size: int | None) -> float:
    return math.inf if size is None else round(size / _MIB, 1)
