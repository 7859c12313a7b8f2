"""The cheapest way to start one batch: how many requests, on how many threads.

The heart of the dispatch rule, apart from it because overload is judged by the same question. Knows one model and the
running batches; nothing of queues. Called some ten thousand times a second by the projection, hence its early ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sponge_core.cpu_sharing import CFS_PERIOD_S, Running, speed_of, stall_of
from sponge_core.latency import LatencyModel

__all__ = ["Choice", "cheapest", "tolerable"]


@dataclass(init=False, slots=True)
class Choice:
    """A batch size, its threads and its predicted seconds at full speed."""

    batch: int
    threads: int
    work_s: float  # with the slow-down by the batches that run beside it

    def __init__(self, batch: int, threads: int, work_s: float) -> None:  # for the reason that `Running` gives
        self.batch = batch
        self.threads = threads
        self.work_s = work_s

    @property
    def cost(self) -> float:
        """Core-seconds per request."""
        return self.threads * self.work_s / self.batch


def cheapest(
    slack: float,
    most: int,
    free: int,
    used: int,
    active: Sequence[Running],
    now: float,
    cores: float,
    model: LatencyModel,
    crowd: int = 0,
) -> Choice | None:
    """The (b, k) with the fewest core-seconds per request that ends within `slack`, or None.

    Args:
        slack: seconds until the earliest deadline of the batch.
        most: requests there are, >= 1, already bounded by the caps.
        free: threads that may be taken.
        used: threads of the batches in `active`.
        cores: the quota in force; a last thread beyond it slows all down, and must not make a running batch late.
        crowd: threads that will run beside each other at least, whatever runs now.
    """
    slowdown = model.slowdown(len(active))
    margin = (1.0 + model.error) * slowdown
    kindest = min(1.0, *model.by_threads) if model.by_threads else 1.0
    # One item needs at least A/k + B seconds: fewer threads than this cannot do it.
    parallel, serial = model.gamma + model.epsilon, model.delta + model.eta
    room = slack / (margin * kindest) - serial
    least = 1
    if parallel > 0:
        if room * free < parallel:
            return None
        least = max(1, math.ceil(parallel / room - 1e-9))
    best: Choice | None = None
    best_cost = math.inf
    for threads in range(least, free + 1):
        # k*l(b, k)/b grows with k at the same b: no more threads can help once the best so far is below that.
        fixed = model.epsilon + model.eta * threads
        bound = kindest * (model.gamma + model.delta * threads + (fixed / most if fixed > 0 else fixed))
        if best is not None and (bound > best_cost + 1e-12 or (best.batch == most and bound > best_cost - 1e-12)):
            break
        speed, stall = 1.0, 0.0
        if (together := max(used + threads, crowd)) > cores:
            speed = cores / together
            stall = CFS_PERIOD_S * (1.0 - speed)
        batch = model.largest_batch((slack - stall) * speed / margin, threads, most)
        if batch == 0 or (speed < 1.0 and not tolerable(active, used, threads, now, cores)):
            continue
        work = model.latency(batch, threads)
        cost = threads * work / batch
        alone = model.latency(1, threads)
        if alone * threads < cost:  # only with a negative fixed part, as in the published fits
            batch, work, cost = 1, alone, alone * threads
        if cost < best_cost - 1e-12 or (cost < best_cost + 1e-12 and best is not None and batch > best.batch):
            best, best_cost = Choice(batch, threads, work * slowdown), cost
    return best


def tolerable(active: Sequence[Running], used: int, more: int, now: float, cores: float) -> bool:
    """Whether the running batches stay in time when `more` threads start to share the quota with them."""
    before, after = speed_of(cores, used), speed_of(cores, used + more)
    for batch in active:
        room = batch.deadline - now
        if batch.left_s / before <= room < batch.left_s / after + stall_of(after):
            return False
    return True
