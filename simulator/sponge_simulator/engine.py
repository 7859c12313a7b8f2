"""Runs a schedule of requests through a policy in virtual time.

Discrete events: arrivals, ends of batches, plans and resizes that come into force. Everything that decides is
production code from `sponge_core`; this module only moves the clock and keeps the account. Knows nothing of real time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sponge_core.batching import Decision
from sponge_core.queueing import EdfQueue, Request
from sponge_core.running import Running, RunningSet

__all__ = ["Policy", "Result", "Size", "View", "simulate"]


@dataclass(frozen=True, slots=True)
class Size:
    """What a plan asks for."""

    cores: float
    batch_cap: int


@dataclass(frozen=True, slots=True)
class View:
    """What a policy may look at."""

    now: float
    queue: EdfQueue
    running: tuple[Running, ...]
    size: Size  # in force


class Policy(Protocol):
    """A way to size a pod and to dispatch in it."""

    interval_s: float

    def observe(self, now: float, request: Request) -> None:
        """A request arrived."""

    def plan(self, view: View) -> Size:
        """The size to run with from now on; called every `interval_s`."""

    def dispatch(self, view: View) -> Decision:
        """What to launch and what to shed now."""

    def ended(self, requests: Sequence[Request], in_time: bool) -> None:
        """A batch of these ended; `in_time`: before the earliest of their deadlines."""


@dataclass(frozen=True, slots=True)
class Result:
    """The account of a run; every request is in exactly one of in_time, late and shed."""

    sent: int
    in_time: int
    late: int
    shed: int
    core_seconds: float
    duration_s: float
    resizes: int
    latencies_s: tuple[float, ...]  # of the answered requests, from the client's send time
    attainment: dict[str, float]  # by SLO class: in time / sent

    @property
    def violations(self) -> float:
        """Fraction of all sent requests that had no answer in time."""
        return 1.0 - self.in_time / self.sent if self.sent else 0.0

    @property
    def mean_cores(self) -> float:
        return self.core_seconds / self.duration_s


def simulate(
    requests: Sequence[Request],
    policy: Policy,
    start: Size,
    duration_s: float,
    resize_s: float = 0.03,
    service_ratio: Callable[[], float] = lambda: 1.0,
) -> Result:
    """Runs `requests` (ascending in arrival) through `policy`.

    Args:
        start: the size in force at time 0.
        duration_s: cores are charged from 0 to here; the queue is served to its end afterwards.
        resize_s: from a plan until it is in force (measured: 22-40 ms at the median on a real kubelet).
        service_ratio: true / predicted time of each batch, drawn at its start.
    """
    queue = EdfQueue()
    running = RunningSet(start.cores)
    batches: dict[int, tuple[Request, ...]] = {}
    size = start
    pending: Size | None = None
    in_force_at = float("inf")
    next_plan = 0.0
    position = next_key = 0
    in_time = late = shed = resizes = 0
    core_seconds = 0.0
    latencies: list[float] = []
    met: Counter[str] = Counter()
    wakes: list[float] = []
    # The predicted account (what the policy sees) and the true one differ by `service_ratio`; both share the quota
    # alike.
    truth = RunningSet(start.cores)
    now = 0.0
    while True:
        finish = truth.next_finish(now)
        next_arrival = requests[position].arrival if position < len(requests) else float("inf")
        times = [finish[1] if finish else float("inf"), next_arrival, in_force_at]
        while wakes and wakes[0] <= now:
            heapq.heappop(wakes)
        if wakes:
            times.append(wakes[0])
        busy = position < len(requests) or len(queue) > 0 or len(running) > 0
        if now < duration_s or busy:
            times.append(next_plan)
        at = min(times)
        if at == float("inf"):
            break
        at = max(now, at)
        core_seconds += (min(at, duration_s) - min(now, duration_s)) * size.cores
        now = at
        if finish and finish[1] <= now:
            truth.finish(finish[0], now)
            running.finish(finish[0], now)
            batch = batches.pop(finish[0])
            policy.ended(batch, now <= min(request.deadline for request in batch) + 1e-9)
            for request in batch:
                latencies.append(now - request.sent)
                if now <= request.deadline + 1e-9:
                    in_time += 1
                    met[request.slo_class] += 1
                else:
                    late += 1
        if in_force_at <= now and pending is not None:
            size, pending, in_force_at = pending, None, float("inf")
            truth.set_cores(size.cores, now)
            running.set_cores(size.cores, now)
        while position < len(requests) and requests[position].arrival <= now:
            policy.observe(now, requests[position])
            queue.push(requests[position])
            position += 1
        if next_plan <= now:
            next_plan = now + policy.interval_s
            wanted = policy.plan(View(now, queue, running.snapshot(now), size))
            if pending is None and wanted != size:
                if wanted.cores == size.cores:
                    size = wanted
                else:
                    pending, in_force_at = wanted, now + resize_s
                    resizes += 1
        decision = policy.dispatch(View(now, queue, running.snapshot(now), size))
        for lost in decision.sheds:
            queue.discard(lost.request.id)
            shed += 1
        for launch in decision.launches:
            for request in launch.requests:
                queue.discard(request.id)
            earliest = min(request.deadline for request in launch.requests)
            running.start(next_key, launch.threads, launch.work_s, earliest, now)
            truth.start(next_key, launch.threads, launch.work_s * service_ratio(), earliest, now)
            batches[next_key] = launch.requests
            next_key += 1
        if decision.wake_at is not None:
            heapq.heappush(wakes, decision.wake_at)
    by_class = Counter(request.slo_class for request in requests)
    attainment = {slo_class: met[slo_class] / sent for slo_class, sent in sorted(by_class.items())}
    return Result(len(requests), in_time, late, shed, core_seconds, duration_s, resizes, tuple(latencies), attainment)
