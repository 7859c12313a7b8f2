"""Replays a pod's dispatch rule from its report: up to the present, and on until its queue is empty.

This is the pod's own admission test, asked from outside: what would become of one more request, and of those before it?
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Final, NamedTuple

from sponge_core.cpu_sharing import Running, speed_of, thread_budget
from sponge_core.dispatch.decision import Limits
from sponge_core.dispatch.load_shedding import Demand
from sponge_core.dispatch.moldable_edf import plan_step
from sponge_core.dispatch.step import Step, fastest_s, remove_settled
from sponge_core.edf_queue import RATE_WINDOW_S
from sponge_core.latency import LatencyModel
from sponge_core.routing.pod_load import PodLoad

__all__ = ["UNSURE_S", "Outlook", "PodReplay"]

GONE: Final = -1
"""The index of a request that does not wait any more."""


UNSURE_S: Final = 0.05
"""Added to the time until a batch ends where that is compared with a margin: half a period of the quota."""


class Outlook(NamedTuple):
    """How a pod's queue empties if nothing more arrives.

    Attributes:
        misses: requests that are shed or late.
        own_s: seconds until the request in question is answered; infinite if it is shed.
        margin: how much longer than predicted the tightest batch may take without being late, as a part of the time
            until it ends; infinite without a batch.
    """

    misses: int
    own_s: float
    margin: float


class PodReplay:
    """The queue and the batches of one pod at one moment.

    Args:
        load: the pod's report.
        model: its latency model.
        now: when the report was made, in seconds on the caller's clock. All other times are on the same clock.
    """

    def __init__(self, load: PodLoad, model: LatencyModel, now: float) -> None:
        self._now = now
        self._waiting = [now + slack for slack in load.slack_s]
        self._had = list(load.had_s)
        if load.more:
            # Of those that are not listed nothing is known but that they are due later.
            self._waiting += [self._waiting[-1]] * load.more
            self._had += [self._had[-1]] * load.more
        self._rate = load.rate_rps
        self._running = [Running(batch.threads, batch.left_s, now + batch.slack_s) for batch in load.running]
        self._cores = load.cores_milli / 1000
        most = load.most_milli / 1000
        self._models = [model]
        self._fastest = [fastest_s(model, most)]
        self._limits = Limits(load.batch_cap, load.lanes, most)

    def arrive(self, now: float, deadline: float) -> None:
        """A request arrives at `now`."""
        self.advance(now)
        self._queue(deadline)

    def advance(self, now: float) -> None:
        """The pod works until `now`."""
        if now > self._now:
            self._run(now, GONE)

    def outlook(self, deadline: float | None = None) -> Outlook:
        """What becomes of the requests that it has; with one more that arrives now, if a deadline is given."""
        now, rate, waiting, had, running = self._now, self._rate, self._waiting, self._had, self._running
        self._waiting, self._had = waiting.copy(), had.copy()
        self._running = [Running(batch.threads, batch.left_s, batch.deadline) for batch in running]
        found = self._run(math.inf, GONE if deadline is None else self._queue(deadline))
        self._now, self._rate, self._waiting, self._had, self._running = now, rate, waiting, had, running
        return found

    def _queue(self, deadline: float) -> int:
        """Queues a request and returns its index."""
        place = bisect_right(self._waiting, deadline)
        self._waiting.insert(place, deadline)
        self._had.insert(place, deadline - self._now)
        self._rate += 1.0 / RATE_WINDOW_S
        return place

    def _run(self, until: float, own: int) -> Outlook:
        """Works until `until` or until nothing is left to do; `own` is the index of the request in question."""
        start, now = self._now, self._now
        waiting, had, running, cores = self._waiting, self._had, self._running, self._cores
        budget = thread_budget(cores)
        misses, own_s, margin = 0, math.inf, math.inf
        mine: Running | None = None
        threads = 0
        for batch in running:
            threads += batch.threads
        while True:
            if waiting and threads < budget:
                demand = Demand([had], [self._rate * math.exp((start - now) / RATE_WINDOW_S)])
                step = plan_step(now, [waiting], running, cores, self._models, self._limits, self._fastest, demand)
                for launch in step.launches:
                    batch = Running(launch.threads, launch.work_s, waiting[launch.first])
                    running.append(batch)
                    threads += launch.threads
                    if launch.first <= own < launch.first + launch.batch:
                        mine = batch
                if own != GONE:
                    own = _moved(step, own)
                shed = remove_settled(step, [waiting])
                remove_settled(step, [had])
                misses += shed
                if shed and not running:
                    continue
            if not running:
                if until == math.inf:  # no size that it may get serves what is left in time
                    misses += len(waiting)
                break
            speed = speed_of(cores, threads)
            first = running[0]
            for batch in running:
                if batch.left_s < first.left_s:
                    first = batch
            work = first.left_s
            if now + work / speed > until:
                work = (until - now) * speed
                for batch in running:
                    batch.left_s -= work
                break
            now += work / speed
            running.remove(first)
            threads -= first.threads
            for batch in running:
                batch.left_s -= work
            if first.deadline < now:
                misses += 1
            margin = min(margin, (first.deadline - now) / (now - start + UNSURE_S))
            if first is mine:
                own_s = now - start
        if until < math.inf:
            now = until
            self._rate *= math.exp((start - now) / RATE_WINDOW_S)
        self._now = now
        return Outlook(misses, own_s, margin)


def _moved(step: Step, own: int) -> int:
    """The index after the step of the request that was at `own` before it."""
    if own < step.lost[0]:
        return GONE
    before = step.lost[0]
    for launch in step.launches:
        if launch.first <= own < launch.first + launch.batch:
            return GONE
        if launch.first < own:
            before += launch.batch
    for _, index in step.sacrificed:
        if index == own:
            return GONE
        if index < own:
            before += 1
    return own - before
