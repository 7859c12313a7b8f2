"""Finds the cheapest way to run the next batch: how many requests, on how many threads.

The heart of the dispatch rule, in a module of its own because load shedding asks the same question. A projection calls
it some ten thousand times a second, hence the early exits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sponge_core.cpu_sharing import CFS_PERIOD_S, CpuLoad
from sponge_core.latency import LatencyModel

__all__ = ["BatchConfig", "cheapest_batch"]


@dataclass(init=False, slots=True)
class BatchConfig:
    """A batch size, its threads, and its predicted seconds at full speed beside the batches that run now."""

    batch: int
    threads: int
    work_s: float

    def __init__(self, batch: int, threads: int, work_s: float) -> None:  # written out as in `Running`
        self.batch = batch
        self.threads = threads
        self.work_s = work_s

    @property
    def cost(self) -> float:
        """Core-seconds per request."""
        return self.threads * self.work_s / self.batch


def cheapest_batch(
    model: LatencyModel, slack_s: float, most: int, free: int, load: CpuLoad, crowd: int = 0
) -> BatchConfig | None:
    """The (b, k) with the fewest core-seconds per request, k*l(b, k)/b, that ends within `slack_s`; None if none does.

    Args:
        slack_s: seconds until the earliest deadline of the batch.
        most: the largest batch, >= 1: the waiting requests or the cap, whichever is less.
        free: threads that the batch may take.
        load: the batches that run beside it. A last thread beyond the quota slows all of them down, and must not make
            any of them late.
        crowd: assume that at least this many threads will share the quota, whatever runs now.
    """
    slowdown = model.slowdown(len(load.running))
    margin = (1.0 + model.error) * slowdown
    smallest_factor = min(1.0, *model.by_threads) if model.by_threads else 1.0
    # One item needs at least A/k + B seconds: fewer threads than this cannot do it.
    parallel, serial = model.gamma + model.epsilon, model.delta + model.eta
    room = slack_s / (margin * smallest_factor) - serial
    least = 1
    if parallel > 0:
        if room * free < parallel:
            return None
        least = max(1, math.ceil(parallel / room - 1e-9))
    used, cores = load.threads, load.cores
    best: BatchConfig | None = None
    best_cost = math.inf
    for threads in range(least, free + 1):
        # k*l(b, k)/b grows with k at the same b: no more threads can help once the best so far is below that.
        fixed = model.epsilon + model.eta * threads
        bound = smallest_factor * (model.gamma + model.delta * threads + (fixed / most if fixed > 0 else fixed))
        if best is not None and (bound > best_cost + 1e-12 or (best.batch == most and bound > best_cost - 1e-12)):
            break
        speed, stall = 1.0, 0.0
        if (together := max(used + threads, crowd)) > cores:
            speed = cores / together
            stall = CFS_PERIOD_S * (1.0 - speed)
        batch = model.largest_batch((slack_s - stall) * speed / margin, threads, most)
        if batch == 0 or (speed < 1.0 and not load.tolerates(threads)):
            continue
        work = model.latency(batch, threads)
        cost = threads * work / batch
        alone = model.latency(1, threads)
        if alone * threads < cost:  # only with a negative fixed part, as in the published fits
            batch, work, cost = 1, alone, alone * threads
        if cost < best_cost - 1e-12 or (cost < best_cost + 1e-12 and best is not None and batch > best.batch):
            best, best_cost = BatchConfig(batch, threads, work * slowdown), cost
    return best
