"""Packrat's choice of instances, threads and batch (ICML 2025, arXiv 2311.18174, code msr-fiddle/packrat).

A batch of B requests is split over several instances of the model, each with threads of its own. The split is the one
whose slowest instance ends first, by latencies measured beforehand. B follows the queue.

Taken over from the paper's abstract and the repository (`utils/optimizer.py` states the recurrence): the program over
a profile of single instances, a T of whole cores, B from the load, and a new configuration when B changes. Packrat
knows no deadlines.

Decided here, because neither says it or because it has no counterpart:
- B is a power of two near the moving average of the queue length at the start of a round. It changes only when the
  average is clearly nearer to another one, so that noise does not reconfigure.
- A round starts when the one before has ended, and takes what waits, up to B. It does not wait to be full.
- A new configuration takes no time. Packrat starts the new instances beside the old ones; lanes change their thread
  counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from sponge_core.dispatch.decision import Decision, DispatchState, Launch
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.latency import LatencyModel

__all__ = ["BatchEstimate", "Instance", "Packrat", "fastest_split"]

WEIGHT = 0.2
"""The weight of the newest queue length in the average."""

CLEARLY = 0.75
"""Distance of the average from B, in powers of two, beyond which B changes. Half way to the next one is 0.5."""


class Instance(NamedTuple):
    """An instance of the model in a configuration: its threads, and the most requests that a round gives to it."""

    threads: int
    batch: int


def fastest_split(profile: Sequence[Sequence[float]], batch: int, most: int | None = None) -> tuple[Instance, ...]:
    """The instances that answer `batch` requests soonest, the largest batch first.

    Their threads add up to at most `len(profile)`, their batches to `batch`.

    Args:
        profile: seconds of one instance; row t has those on t + 1 threads, for batches of 1, 2, ...; all rows have one
            length, and no larger batch is faster.
        batch: requests of all instances together, >= 1.
        most: the most instances; None: as many as threads.

    Raises:
        ValueError: no split has room for so many requests.
    """
    most = len(profile) if most is None else min(most, len(profile))
    bounds = sorted({latency for row in profile for latency in row})
    low, high = 0, len(bounds) - 1
    best = _fullest(profile, bounds[high], most)
    if sum(instance.batch for instance in best) < batch:
        raise ValueError(f"no {most} instances have room for {batch} requests; at most {len(profile[0])} fit in one")
    while low < high:
        middle = (low + high) // 2
        found = _fullest(profile, bounds[middle], most)
        if sum(instance.batch for instance in found) >= batch:
            best, high = found, middle
        else:
            low = middle + 1
    return _trimmed(best, batch)


def _fullest(profile: Sequence[Sequence[float]], within_s: float, most: int) -> list[Instance]:
    """The instances that answer the most requests within so many seconds: a program over instances and threads."""
    threads = len(profile)
    fits = [sum(latency <= within_s for latency in row) for row in profile]
    carried, taken = [0] * (threads + 1), [[0] * (threads + 1)]
    for _ in range(most):
        before, chosen = carried, [0] * (threads + 1)
        carried = before.copy()  # one instance fewer
        for total in range(1, threads + 1):
            for own in range(1, total + 1):
                more = before[total - own] + fits[own - 1]
                if more > carried[total]:
                    carried[total], chosen[total] = more, own
        taken.append(chosen)
    left, instances = threads, []
    for chosen in reversed(taken):
        if own := chosen[left]:
            instances.append(Instance(own, fits[own - 1]))
            left -= own
    return instances


def _trimmed(instances: Sequence[Instance], batch: int) -> tuple[Instance, ...]:
    """The same instances with no more room than needed; those without any go."""
    kept = []
    for threads, room in sorted(instances, key=lambda each: (-each.batch, each.threads)):
        if batch > 0:
            kept.append(Instance(threads, min(room, batch)))
            batch -= room
    return tuple(kept)


@lru_cache(maxsize=256)
def _configuration(model: LatencyModel, threads: int, lanes: int, cap: int, batch: int) -> tuple[Instance, ...]:
    profile = [[model.latency(size, used) for size in range(1, cap + 1)] for used in range(1, threads + 1)]
    return fastest_split(profile, batch, lanes)


class BatchEstimate:
    """B, from queue lengths.

    Attributes:
        batch: a power of two.
    """

    def __init__(self) -> None:
        self._average = 0.0
        self.batch = 1

    def update(self, waiting: int) -> int:
        """Adds a queue length >= 1; returns B."""
        self._average += (WEIGHT if self._average else 1.0) * (waiting - self._average)
        wanted = math.log2(self._average)
        if abs(wanted - math.log2(self.batch)) > CLEARLY:
            self.batch = 2 ** round(wanted)
        return self.batch


class Packrat(Dispatcher):
    """First come, first served, in rounds of up to B requests on the instances of the configuration; drops nothing."""

    def __init__(self) -> None:
        self._estimates: dict[int, BatchEstimate] = {}

    def decide(self, state: DispatchState) -> Decision:
        if state.running or not state.queue:
            return Decision((), (), None)
        index = next(state.queue.by_arrival()).model
        waiting = [request for request in state.queue.by_arrival() if request.model == index]
        model = state.models[index]
        cap = min(state.limits.batch_cap, model.max_batch)
        # Instances have whole cores of their own.
        threads = max(1, int(state.cores + 1e-9))
        lanes = min(state.limits.lanes, threads)
        batch = self._estimates.setdefault(index, BatchEstimate()).update(len(waiting))
        instances = _configuration(model, threads, lanes, cap, min(batch, cap * lanes))
        launches: list[Launch] = []
        slowdown = model.slowdown(min(len(instances), len(waiting)) - 1)
        for each in instances:
            if waiting:
                taken, waiting = tuple(waiting[: each.batch]), waiting[each.batch :]
                launches.append(Launch(taken, each.threads, model.latency(len(taken), each.threads) * slowdown))
        return Decision(tuple(launches), (), None)
