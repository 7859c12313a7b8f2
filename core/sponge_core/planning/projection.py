"""Replays the dispatch rule into the near future to count the misses of one CPU size.

The server projects next to its queue, the simulator in virtual time. `frontier` searches for the smallest size without
a miss, and `decider` turns that into a decision.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sponge_core.cpu_sharing import MIN_CORES, Running, RunningSet, speed_of, thread_budget
from sponge_core.dispatch.decision import Limits
from sponge_core.dispatch.load_shedding import Demand
from sponge_core.dispatch.moldable_edf import Step, fastest_s, plan_step
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel

__all__ = ["Projection", "ProjectionInput", "Replayer", "project"]

TINY_S: Final = 1e-6

SHORTEST_SPAN_S: Final = 0.25
"""Arrivals that all come within a shorter time are a burst, not a rate."""


@dataclass(frozen=True, slots=True)
class ProjectionInput:
    """The state that a projection starts from. All times are seconds on one clock.

    Attributes:
        queued: deadlines of the waiting requests: one ascending list for each model.
        running: the running batches.
        arrivals: uploads in flight and forecast arrivals, ascending in `at`.
        cores: the CPU quota in force.
        resize_s: seconds until a new quota is in force.
        overhead: cores of the quota that work beside the batches uses (HTTP, planning), at any size.
        slos: the remaining SLO of each waiting request on its arrival, in the order of `queued`. Without it the replay
            sheds no request for the benefit of others.
    """

    now: float
    queued: Sequence[Sequence[float]]
    running: Sequence[Running]
    arrivals: Sequence[Arrival]
    cores: float
    resize_s: float
    overhead: float = 0.0
    slos: Sequence[Sequence[float]] | None = None

    def net(self, cores: float) -> float:
        """The cores that a quota of `cores` leaves for batches."""
        return max(cores - self.overhead, MIN_CORES)


@dataclass(init=False, slots=True)
class Projection:
    """The result of one replay."""

    misses: int
    largest_batch: int  # 0 when nothing was launched
    longest_s: float  # longest predicted batch at full speed

    def __init__(self, misses: int, largest_batch: int, longest_s: float) -> None:  # written out as in `Running`
        self.misses = misses
        self.largest_batch = largest_batch
        self.longest_s = longest_s


def project(
    given: ProjectionInput, cores: float, models: Sequence[LatencyModel], limits: Limits, *, sacrifice: bool = False
) -> Projection:
    """Replays the dispatch rule as if the quota became `cores`, and counts the requests it sheds or answers late.

    Requests that no size can save any more do not count. After the last arrival the replay runs until the queue is
    empty.

    Args:
        models: the latency models, by `Request.model`.
        limits: `max_cores` is the largest size that a plan may choose.
        sacrifice: under overload, shed requests for the benefit of others as the rule does. Needs `given.slos`; useful
            only for a size that misses requests without it.
    """
    return Replayer(given, models, limits.max_cores).run(cores, limits, sacrifice=sacrifice)


class Replayer:
    """Replays one state at many sizes and computes what the replays share only once.

    Args:
        max_cores: the largest size that a plan may choose.
    """

    def __init__(self, given: ProjectionInput, models: Sequence[LatencyModel], max_cores: float) -> None:
        self.given = given
        now = given.now
        self._models = list(models)
        self._max_cores = given.net(max_cores)
        self._in_force = given.net(given.cores)
        self._best_case = [fastest_s(model, self._max_cores) for model in models]
        # The waiting requests that some size can still answer in time.
        self._waiting: list[list[float]] = [[] for _ in models]
        self._slos: list[list[float]] = [[] for _ in models]
        for model, deadlines in enumerate(given.queued):
            alive = bisect_left(deadlines, now + self._best_case[model])
            self._waiting[model] = list(deadlines[alive:])
            if given.slos is not None:
                self._slos[model] = list(given.slos[model][alive:])
        speed = speed_of(self._in_force, sum([batch.threads for batch in given.running]))
        self._late_already = [now + batch.left_s / speed > batch.deadline for batch in given.running]

    def first_candidate(self, candidates_milli: Sequence[int], batch_cap: int) -> int:
        """Index of the smallest size that two lower bounds allow; `len(candidates_milli)` when they rule out all.

        The first bound: the size must be able to answer each request alone in the time it has, model error included.
        The second: up to each deadline, the waiting requests due by then must not need more core-seconds than the
        threads of the size have.

        Args:
            candidates_milli: sizes in millicores, ascending.
        """
        given = self.given
        shortest = [deadlines[0] - given.now if deadlines else math.inf for deadlines in self._waiting]
        for arrival in given.arrivals:
            left = arrival.deadline - arrival.at
            if self._best_case[arrival.model] <= left < shortest[arrival.model]:
                shortest[arrival.model] = left
        busiest, works = 0.0, self._least_works(batch_cap)
        for model, deadlines in enumerate(self._waiting):
            work = works[model]
            for index in range(len(deadlines)):
                busiest = max(busiest, (index + 1) * work / max(deadlines[index] - given.now, TINY_S))
        for index, milli in enumerate(candidates_milli):
            cores = given.net(milli / 1000)
            if thread_budget(cores) < busiest * (1.0 - 1e-9):
                continue
            for model, left in enumerate(shortest):
                latency = self._models[model]
                if left < math.inf and left < fastest_s(latency, cores, 1.0 + latency.error) * (1.0 - 1e-9):
                    break
            else:
                return index
        return len(candidates_milli)

    def mean_cores(self, batch_cap: int) -> float:
        """A rough estimate of the cores needed: all work at its cheapest, spread evenly until the last deadline."""
        work, until, works = 0.0, self.given.now, self._least_works(batch_cap)
        for model, deadlines in enumerate(self._waiting):
            work += len(deadlines) * works[model]
            if deadlines:
                until = max(until, deadlines[-1])
        for arrival in self.given.arrivals:
            work += works[arrival.model]
            until = max(until, arrival.deadline)
        return work / max(until - self.given.now, SHORTEST_SPAN_S)

    def _least_works(self, batch_cap: int) -> list[float]:
        """By model: a lower bound of the core-seconds that one request takes."""
        threads = thread_budget(self._max_cores)
        return [model.least_work(min(batch_cap, model.max_batch), threads) for model in self._models]

    def run(self, cores: float, limits: Limits, *, sacrifice: bool = False, enough: int = sys.maxsize) -> Projection:
        """As `project`.

        Args:
            enough: stop the replay at this number of misses, because the caller does not care how many more there are.
        """
        given, models, best_case = self.given, self._models, self._best_case
        now, arrivals = given.now, given.arrivals
        cores, in_force = given.net(cores), self._in_force
        # A smaller quota waits until the running batches fit it, a larger one until the resize is done.
        switch_at = now + given.resize_s if cores != in_force else now
        fastest = [fastest_s(model, cores) for model in models]
        own_limits = Limits(limits.batch_cap, max(limits.lanes, thread_budget(cores)), cores)

        waiting = [deadlines.copy() for deadlines in self._waiting]
        slos = [left.copy() for left in self._slos] if sacrifice else []
        demand = Demand(slos, _rates(now, arrivals, len(models))) if sacrifice else None
        running = RunningSet(in_force, now)
        late_already = self._late_already
        next_key = 0
        for batch in given.running:
            running.start(next_key, batch.threads, batch.left_s, batch.deadline, now)
            next_key += 1
        own_budget = thread_budget(cores)
        resized = cores == in_force
        if switch_at <= now and running.threads <= own_budget:
            running.set_cores(cores, now)
            resized = True
        # A smaller size bounds the threads of new batches at once; its quota follows once the running batches fit it.
        usable = min(running.cores, cores)
        budget = thread_budget(usable)

        misses = largest = 0
        longest_s = 0.0
        left = sum([len(line) for line in waiting])
        position, count = 0, len(arrivals)
        next_at = arrivals[0].at if count else math.inf
        time = now
        while misses < enough:
            # While no thread is free nothing can start; a request lost meanwhile is still found lost later.
            if running.threads < budget and left:
                # Until a larger quota is in force the rule sees the present one, but sheds nothing for that reason
                # alone. After the last arrival no newcomer could benefit from a sacrificed request.
                if position == count:
                    demand = None
                step = plan_step(time, waiting, running.live(time), usable, models, own_limits, fastest, demand)
                for launch in step.launches:
                    earliest = waiting[launch.model][launch.first]
                    running.start(next_key, launch.threads, launch.work_s, earliest, time)
                    next_key += 1
                    left -= launch.batch
                    if launch.batch > largest:
                        largest = launch.batch
                    if launch.work_s > longest_s:
                        longest_s = launch.work_s
                shed = _remove(step, waiting)
                misses += shed
                left -= shed
                if sacrifice:
                    _remove(step, slos)
            # Advance to the next event: the resize, an arrival, or the end of a batch.
            finish = running.next_finish(time)
            upcoming = finish[1] if finish is not None else math.inf
            if next_at < upcoming:
                upcoming = next_at
            if time < switch_at < upcoming:
                upcoming = switch_at
            if upcoming == math.inf:
                return Projection(misses + left, largest, longest_s)
            if upcoming > time:
                time = upcoming
            if finish is not None and finish[1] <= time:
                key = finish[0]
                batch = running.finish(key, time)
                if time > batch.deadline + 1e-9 and not (key < len(late_already) and late_already[key]):
                    misses += 1
            if not resized and time >= switch_at and running.threads <= own_budget:
                running.set_cores(cores, time)
                usable, budget, resized = cores, own_budget, True
            while next_at <= time:
                arrival = arrivals[position]
                if arrival.deadline >= next_at + best_case[arrival.model]:
                    place = bisect_right(waiting[arrival.model], arrival.deadline)
                    waiting[arrival.model].insert(place, arrival.deadline)
                    if sacrifice:
                        slos[arrival.model].insert(place, arrival.deadline - arrival.at)
                    left += 1
                position += 1
                next_at = arrivals[position].at if position < count else math.inf
        return Projection(misses, largest, longest_s)


def _remove(step: Step, lists: list[list[float]]) -> int:
    """Removes the entries that a step launches or sheds from the lists, by model; returns how many it sheds."""
    launches, shed = step.launches, len(step.sacrificed)
    # From the back, so that earlier indices stay valid.
    if shed:
        gone = [(launch.model, launch.first, launch.batch) for launch in launches]
        for model, first, number in sorted(gone + [(*place, 1) for place in step.sacrificed], reverse=True):
            del lists[model][first : first + number]
    else:
        for index in range(len(launches) - 1, -1, -1):
            launch = launches[index]
            del lists[launch.model][launch.first : launch.first + launch.batch]
    for model, lost in enumerate(step.lost):
        if lost:
            shed += lost
            del lists[model][:lost]
    return shed


def _rates(now: float, arrivals: Sequence[Arrival], models: int) -> list[float]:
    """Arrivals per second, by model, from now until the last arrival."""
    counts = [0] * models
    for arrival in arrivals:
        counts[arrival.model] += 1
    span = max(arrivals[-1].at - now, SHORTEST_SPAN_S) if arrivals else SHORTEST_SPAN_S
    return [count / span for count in counts]
