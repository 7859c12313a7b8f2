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
from sponge_core.dispatch.moldable_edf import plan_step
from sponge_core.dispatch.size_matching import RowCosts
from sponge_core.dispatch.sized_edf import plan_sized_step
from sponge_core.dispatch.step import fastest_s, remove_settled
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
        sizes: the size of each waiting request, in the order of `queued`. Needed if a model has a `SizeCurve`.
    """

    now: float
    queued: Sequence[Sequence[float]]
    running: Sequence[Running]
    arrivals: Sequence[Arrival]
    cores: float
    resize_s: float
    overhead: float = 0.0
    slos: Sequence[Sequence[float]] | None = None
    sizes: Sequence[Sequence[float]] | None = None

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
        # Where requests differ in size, what each of them costs.
        self._costs: RowCosts | None = None
        for latency in models:
            if latency.sizes is not None and self._costs is None:
                self._costs = RowCosts(models, self._max_cores)
        # The waiting requests that some size can still answer in time.
        self._waiting: list[list[float]] = [[] for _ in models]
        self._slos: list[list[float]] = [[] for _ in models]
        self._sizes: list[list[float]] = [[] for _ in models]
        for model, deadlines in enumerate(given.queued):
            if self._costs is not None:
                self._keep_alive(model, deadlines)
                continue
            alive = bisect_left(deadlines, now + self._best_case[model])
            self._waiting[model] = list(deadlines[alive:])
            if given.slos is not None:
                self._slos[model] = list(given.slos[model][alive:])
        speed = speed_of(self._in_force, sum([batch.threads for batch in given.running]))
        self._late_already = [now + batch.left_s / speed > batch.deadline for batch in given.running]

    def _keep_alive(self, model: int, deadlines: Sequence[float]) -> None:
        """As above where the least time of a request depends on its size."""
        given = self.given
        for index, deadline in enumerate(deadlines):
            size = 1.0 if given.sizes is None else given.sizes[model][index]
            if deadline >= given.now + self._least_s(model, size):
                self._waiting[model].append(deadline)
                self._sizes[model].append(size)
                if given.slos is not None:
                    self._slos[model].append(given.slos[model][index])

    def _least_s(self, model: int, size: float) -> float:
        """The least seconds of a request on the largest size."""
        return self._best_case[model] if self._costs is None else self._costs.of(model, size).fastest_s

    def first_candidate(self, candidates_milli: Sequence[int], batch_cap: int) -> int:
        """Index of the smallest size that two lower bounds allow; `len(candidates_milli)` when they rule out all.

        The first bound: the size must be able to answer each request alone in the time it has, model error included.
        The second: up to each deadline, the waiting requests due by then must not need more core-seconds than the
        threads of the size have.

        Args:
            candidates_milli: sizes in millicores, ascending.
        """
        given = self.given
        shortest = self._shortest() if self._costs is None else self._shortest_by_size(self._costs)
        busiest, works = 0.0, self._least_works(batch_cap)
        for model, deadlines in enumerate(self._waiting):
            work, so_far = works[model], 0.0
            for index in range(len(deadlines)):
                if self._costs is None:
                    so_far = (index + 1) * work
                else:
                    so_far += self._least_work(model, self._sizes[model][index], batch_cap)
                busiest = max(busiest, so_far / max(deadlines[index] - given.now, TINY_S))
        for index, milli in enumerate(candidates_milli):
            cores = given.net(milli / 1000)
            if thread_budget(cores) < busiest * (1.0 - 1e-9):
                continue
            for latency, left in shortest:
                if left < math.inf and left < fastest_s(latency, cores, 1.0 + latency.error) * (1.0 - 1e-9):
                    break
            else:
                return index
        return len(candidates_milli)

    def _shortest(self) -> list[tuple[LatencyModel, float]]:
        """By model: the least time that any of its requests has."""
        shortest = [deadlines[0] - self.given.now if deadlines else math.inf for deadlines in self._waiting]
        for arrival in self.given.arrivals:
            left = arrival.deadline - arrival.at
            if self._best_case[arrival.model] <= left < shortest[arrival.model]:
                shortest[arrival.model] = left
        return list(zip(self._models, shortest, strict=True))

    def _shortest_by_size(self, costs: RowCosts) -> list[tuple[LatencyModel, float]]:
        """The same by model and size of request."""
        found: dict[tuple[int, float], float] = {}
        for model, deadlines in enumerate(self._waiting):
            for index in range(len(deadlines)):
                key = (model, self._sizes[model][index])
                found[key] = min(found.get(key, math.inf), deadlines[index] - self.given.now)
        for arrival in self.given.arrivals:
            left = arrival.deadline - arrival.at
            if self._least_s(arrival.model, arrival.size) <= left:
                key = (arrival.model, arrival.size)
                found[key] = min(found.get(key, math.inf), left)
        return [(costs.of(model, size).latency, left) for (model, size), left in found.items()]

    def mean_cores(self, batch_cap: int) -> float:
        """A rough estimate of the cores needed: all work at its cheapest, spread evenly until the last deadline."""
        work, until, works = 0.0, self.given.now, self._least_works(batch_cap)
        for model, deadlines in enumerate(self._waiting):
            if self._costs is None:
                work += len(deadlines) * works[model]
            else:
                for size in self._sizes[model]:
                    work += self._least_work(model, size, batch_cap)
            if deadlines:
                until = max(until, deadlines[-1])
        for arrival in self.given.arrivals:
            sized = self._costs is not None
            work += self._least_work(arrival.model, arrival.size, batch_cap) if sized else works[arrival.model]
            until = max(until, arrival.deadline)
        return work / max(until - self.given.now, SHORTEST_SPAN_S)

    def _least_works(self, batch_cap: int) -> list[float]:
        """By model: a lower bound of the core-seconds that one request takes."""
        threads = thread_budget(self._max_cores)
        return [model.least_work(min(batch_cap, model.max_batch), threads) for model in self._models]

    def _least_work(self, model: int, size: float, batch_cap: int) -> float:
        """The same for a request of one size."""
        latency = self._models[model].at(size) if self._costs is None else self._costs.of(model, size).latency
        return latency.least_work(min(batch_cap, latency.max_batch), thread_budget(self._max_cores))

    def run(self, cores: float, limits: Limits, *, sacrifice: bool = False, enough: int = sys.maxsize) -> Projection:
        """As `project`.

        Args:
            enough: stop the replay at this number of misses, because the caller does not care how many more there are.
        """
        given, models = self.given, self._models
        now, arrivals = given.now, given.arrivals
        cores, in_force = given.net(cores), self._in_force
        # A smaller quota waits until the running batches fit it, a larger one until the resize is done.
        switch_at = now + given.resize_s if cores != in_force else now
        fastest = [fastest_s(model, cores) for model in models]
        own_limits = Limits(limits.batch_cap, max(limits.lanes, thread_budget(cores)), cores)

        waiting = [deadlines.copy() for deadlines in self._waiting]
        slos = [left.copy() for left in self._slos] if sacrifice else []
        sizes = [line.copy() for line in self._sizes]
        costs = None if self._costs is None else RowCosts(models, cores)
        rates = _rates(now, arrivals, len(models)) if sacrifice else []
        demand = Demand(slos, rates, () if costs is None else sizes) if sacrifice else None
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
                if costs is None:
                    step = plan_step(time, waiting, running.live(time), usable, models, own_limits, fastest, demand)
                else:
                    now_running = running.live(time)
                    step = plan_sized_step(time, waiting, sizes, now_running, usable, costs, own_limits, demand)
                    remove_settled(step, sizes)
                for launch in step.launches:
                    earliest = waiting[launch.model][launch.first]
                    running.start(next_key, launch.threads, launch.work_s, earliest, time)
                    next_key += 1
                    left -= launch.batch
                    if launch.batch > largest:
                        largest = launch.batch
                    if launch.work_s > longest_s:
                        longest_s = launch.work_s
                shed = remove_settled(step, waiting)
                misses += shed
                left -= shed
                if sacrifice:
                    remove_settled(step, slos)
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
                if arrival.deadline >= next_at + self._least_s(arrival.model, arrival.size):
                    place = bisect_right(waiting[arrival.model], arrival.deadline)
                    waiting[arrival.model].insert(place, arrival.deadline)
                    if costs is not None:
                        sizes[arrival.model].insert(place, arrival.size)
                    if sacrifice:
                        slos[arrival.model].insert(place, arrival.deadline - arrival.at)
                    left += 1
                position += 1
                next_at = arrivals[position].at if position < count else math.inf
        return Projection(misses, largest, longest_s)


def _rates(now: float, arrivals: Sequence[Arrival], models: int) -> list[float]:
    """Arrivals per second, by model, from now until the last arrival."""
    counts = [0] * models
    for arrival in arrivals:
        counts[arrival.model] += 1
    span = max(arrivals[-1].at - now, SHORTEST_SPAN_S) if arrivals else SHORTEST_SPAN_S
    return [count / span for count in counts]
