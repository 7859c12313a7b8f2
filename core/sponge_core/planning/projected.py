"""The default planner: replays the dispatch rule into the near future for each size that matters.

It runs in the server, next to the queue, and yields the frontier: how many misses each size would have; what is made of
it is `decider`'s. Pure: knows neither HTTP nor Kubernetes nor a clock.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sponge_core.control_api import FrontierPoint
from sponge_core.cpu_sharing import Running, RunningSet, speed_of, thread_budget
from sponge_core.dispatch.load_shedding import Demand
from sponge_core.dispatch.moldable_edf import Limits, Step, fastest_s, plan_step
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel

__all__ = [
    "LEAST_CORES",
    "Frontier",
    "Projection",
    "Replays",
    "Situation",
    "plan_steady",
    "project",
    "project_frontier",
]


FAR: Final = 3
"""With more sizes between the one in force and the one that the work suggests, the search begins with the latter."""

FAR_SHORT: Final = 16
"""With more misses than this a size is no neighbour of one without."""

TINY_S: Final = 1e-6

SHORTEST_SPAN_S: Final = 0.25
"""Arrivals that all come sooner are a burst, not a rate."""

LEAST_CORES: Final = 0.01
"""The smallest quota that the kubelet sets is 1 ms in 100 ms."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a projection starts from, all on one clock.

    Attributes:
        queued: deadlines of the waiting requests, by model, each list ascending.
        running: the batches that run now.
        arrivals: uploads in flight and forecast arrivals, ascending in `at`.
        cores: the quota in force.
        resize_s: how long a change of the quota takes from now until it is in force.
        slos: what the waiting requests had left on arrival, in the places of `queued`. With it, what the rule gives up
            under overload is given up in the replay too.
        overhead: cores of the quota that are used beside the batches (by HTTP, by planning), whatever its size.
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
        """What a quota of `cores` leaves for batches."""
        return max(cores - self.overhead, LEAST_CORES)


@dataclass(frozen=True, slots=True)
class Frontier:
    """The sizes that were tried, ascending in cores, and whether the one in force is about to miss without need."""

    points: tuple[FrontierPoint, ...]
    urgent: bool


@dataclass(init=False, slots=True)
class Projection:
    """What a replay saw."""

    misses: int
    largest_batch: int  # 0 when nothing was launched
    longest_s: float  # longest predicted batch at full speed

    def __init__(self, misses: int, largest_batch: int, longest_s: float) -> None:  # for the reason `Running` gives
        self.misses = misses
        self.largest_batch = largest_batch
        self.longest_s = longest_s


def project(
    situation: Situation, cores: float, models: Sequence[LatencyModel], limits: Limits, *, sacrifice: bool = False
) -> Projection:
    """Replays the dispatch rule as if the quota became `cores`; counts what it loses or ends late.

    What is late or lost whatever is done now does not count. After the last arrival the queue is served to its end.

    Args:
        sacrifice: gives up under overload what the rule does. Needs `situation.slos`, and is of use only where a size
            misses without it.
    """
    return Replays(situation, models, limits.max_cores).run(cores, limits, sacrifice=sacrifice)


class Replays:
    """Replays of one situation at many sizes; what they have in common is worked out once."""

    def __init__(self, situation: Situation, models: Sequence[LatencyModel], max_cores: float) -> None:
        self.situation = situation
        now = situation.now
        self._models = list(models)
        self._max_cores = situation.net(max_cores)
        self._in_force = situation.net(situation.cores)
        self._best_case = [fastest_s(model, self._max_cores) for model in models]
        # What waits and can still be met by any size.
        self._waiting: list[list[float]] = [[] for _ in models]
        self._slos: list[list[float]] = [[] for _ in models]
        for model, line in enumerate(situation.queued):
            alive = bisect_left(line, now + self._best_case[model])
            self._waiting[model] = list(line[alive:])
            if situation.slos is not None:
                self._slos[model] = list(situation.slos[model][alive:])
        speed = speed_of(self._in_force, sum([batch.threads for batch in situation.running]))
        self._late_already = [now + batch.left_s / speed > batch.deadline for batch in situation.running]

    def first_candidate(self, candidates_milli: Sequence[int], batch_cap: int) -> int:
        """The place of the smallest size that is not ruled out without a replay; their number where every one is.

        Two bounds. Nobody's time is too short for an answer alone, with the allowance for error, on this size. And
        those that wait and are due first do not need more core-seconds until then than its threads have.
        """
        situation = self.situation
        shortest = [line[0] - situation.now if line else math.inf for line in self._waiting]
        for arrival in situation.arrivals:
            left = arrival.deadline - arrival.at
            if self._best_case[arrival.model] <= left < shortest[arrival.model]:
                shortest[arrival.model] = left
        busiest, works = 0.0, self._least_works(batch_cap)
        for model, line in enumerate(self._waiting):
            work = works[model]
            for place in range(len(line)):
                busiest = max(busiest, (place + 1) * work / max(line[place] - situation.now, TINY_S))
        for place, milli in enumerate(candidates_milli):
            cores = situation.net(milli / 1000)
            if thread_budget(cores) < busiest * (1.0 - 1e-9):
                continue
            for model, left in enumerate(shortest):
                latency = self._models[model]
                if left < math.inf and left < fastest_s(latency, cores, 1.0 + latency.error) * (1.0 - 1e-9):
                    break
            else:
                return place
        return len(candidates_milli)

    def mean_cores(self, batch_cap: int) -> float:
        """About what is needed: all work at its cheapest, spread until the last deadline."""
        work, until, works = 0.0, self.situation.now, self._least_works(batch_cap)
        for model, line in enumerate(self._waiting):
            work += len(line) * works[model]
            if line:
                until = max(until, line[-1])
        for arrival in self.situation.arrivals:
            work += works[arrival.model]
            until = max(until, arrival.deadline)
        return work / max(until - self.situation.now, SHORTEST_SPAN_S)

    def _least_works(self, batch_cap: int) -> list[float]:
        """By model: a lower bound of the core-seconds of a request."""
        threads = thread_budget(self._max_cores)
        return [model.least_work(min(batch_cap, model.max_batch), threads) for model in self._models]

    def run(self, cores: float, limits: Limits, *, sacrifice: bool = False, enough: int = sys.maxsize) -> Projection:
        """The arguments and the answer of `project`.

        Args:
            enough: so many misses that more would make no difference; the replay ends there.
        """
        situation, models, best_case = self.situation, self._models, self._best_case
        now, arrivals = situation.now, situation.arrivals
        cores, in_force = situation.net(cores), self._in_force
        # A smaller quota waits for the running batches to fit it, a larger one for the actuation.
        switch_at = now + situation.resize_s if cores != in_force else now
        fastest = [fastest_s(model, cores) for model in models]
        own_limits = Limits(limits.batch_cap, max(limits.lanes, thread_budget(cores)), cores)

        waiting = [line.copy() for line in self._waiting]
        slos = [line.copy() for line in self._slos] if sacrifice else []
        demand = Demand(slos, _rates(now, arrivals, len(models))) if sacrifice else None
        running = RunningSet(in_force, now)
        late_already = self._late_already
        next_key = 0
        for batch in situation.running:
            running.start(next_key, batch.threads, batch.left_s, batch.deadline, now)
            next_key += 1
        own_budget = thread_budget(cores)
        resized = cores == in_force
        if switch_at <= now and running.threads <= own_budget:
            running.set_cores(cores, now)
            resized = True
        # A smaller size takes the threads from new batches at once, the quota when those that run fit it.
        usable = min(running.cores, cores)
        budget = thread_budget(usable)

        misses = largest = 0
        longest_s = 0.0
        left = sum([len(line) for line in waiting])
        position, count = 0, len(arrivals)
        next_at = arrivals[0].at if count else math.inf
        time = now
        while misses < enough:
            # While no thread is free nothing can start, and what is lost meanwhile is still found lost later.
            if running.threads < budget and left:
                # Before a larger quota is in force, the rule sees the present one; nothing is lost for that reason
                # alone. After the last arrival nobody comes who could gain from what is given up.
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
                given_up = _take(step, waiting)
                misses += given_up
                left -= given_up
                if sacrifice:
                    _take(step, slos)
            # On to the next event: the resize, an arrival, or the end of a batch.
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


def _take(step: Step, lines: list[list[float]]) -> int:
    """Takes what a step launches or gives up out of the lists, by model; returns how many it gives up."""
    launches, given_up = step.launches, len(step.sacrificed)
    # From the back, so that the places before stay true.
    if given_up:
        gone = [(launch.model, launch.first, launch.batch) for launch in launches]
        for model, first, number in sorted(gone + [(*place, 1) for place in step.sacrificed], reverse=True):
            del lines[model][first : first + number]
    else:
        for index in range(len(launches) - 1, -1, -1):
            launch = launches[index]
            del lines[launch.model][launch.first : launch.first + launch.batch]
    for model, lost in enumerate(step.lost):
        if lost:
            given_up += lost
            del lines[model][:lost]
    return given_up


def _rates(now: float, arrivals: Sequence[Arrival], models: int) -> list[float]:
    """Arrivals per second, by model, until the last of them."""
    counts = [0] * models
    for arrival in arrivals:
        counts[arrival.model] += 1
    span = max(arrivals[-1].at - now, SHORTEST_SPAN_S) if arrivals else SHORTEST_SPAN_S
    return [count / span for count in counts]


def project_frontier(
    situation: Situation,
    candidates_milli: Sequence[int],
    models: Sequence[LatencyModel],
    limits: Limits,
    *,
    counted: bool = True,
) -> Frontier:
    """Finds the smallest candidate without a miss, starting from the size in force.

    Args:
        candidates_milli: sizes allowed, ascending, not empty.
        limits: `max_cores` is the largest that a plan may give.
        counted: else, where some size misses nothing, of the others it is only told that they miss something.

    Returns:
        Every size that was tried; among them the smallest without a miss if there is one, and if not the largest and
        the one in force. Where even the largest misses, its batch cap is the one with the fewest misses.
    """
    replays = Replays(situation, models, limits.max_cores)
    enough = sys.maxsize if counted else 1
    tried: dict[int, Projection] = {}

    def misses(index: int) -> int:
        if index not in tried:
            tried[index] = replays.run(candidates_milli[index] / 1000, limits, enough=enough)
        return tried[index].misses

    in_force = round(situation.cores * 1000)
    last = len(candidates_milli) - 1
    here = min(range(last + 1), key=lambda i: abs(candidates_milli[i] - in_force))
    bad = replays.first_candidate(candidates_milli, limits.batch_cap) - 1
    good = last + 1
    likely = bisect_left(candidates_milli, 1000 * replays.mean_cores(limits.batch_cap))
    probe = min(last, max(bad + 1, here if abs(here - likely) <= FAR else likely))
    stride = 1
    if bad < last and misses(probe) == 0:
        # Down by doubling steps while nothing is missed, then bisect the last gap.
        good = probe
        while good > bad + 1:
            probe = max(bad + 1, good - stride)
            if misses(probe) == 0:
                good, stride = probe, stride * 2
            else:
                bad = probe
                break
    elif bad < last:
        bad = probe
        while bad < last:
            # Where far too much is missed the question is whether any size will do.
            probe = last if misses(bad) > FAR_SHORT else min(last, bad + stride)
            if misses(probe) == 0:
                good = probe
                break
            bad, stride = probe, stride * 2
    while good - bad > 1 and good <= last:
        middle = (good + bad) // 2
        if misses(middle) == 0:
            good = middle
        else:
            bad = middle
    if good > here:
        misses(here)
    cap = limits.batch_cap
    if good > last:
        misses(last)
        # Overload: how much is missed matters now, and less is where the rule gives up what it would.
        for index in tried:
            cores = candidates_milli[index] / 1000
            without = tried[index] if counted else replays.run(cores, limits)
            tried[index] = _with_sacrifice(replays, cores, limits, without)
        cap, tried[last] = _best_cap(replays, candidates_milli[last] / 1000, limits, tried[last])
    points = tuple(
        FrontierPoint(
            cores_milli=candidates_milli[index],
            batch_cap=cap if index == last else limits.batch_cap,
            misses=tried[index].misses,
        )
        for index in sorted(tried)
    )
    present = tried[here].misses if good > here else 0
    urgent = any(point.cores_milli > in_force and point.misses < present for point in points)
    return Frontier(points, urgent)


def _with_sacrifice(replays: Replays, cores: float, limits: Limits, without: Projection) -> Projection:
    """A size in overload: with what the rule gives up, or `without` where that saves more."""
    if replays.situation.slos is None:
        return without
    found = replays.run(cores, limits, sacrifice=True, enough=without.misses)
    return found if found.misses < without.misses else without


def _best_cap(replays: Replays, cores: float, limits: Limits, found: Projection) -> tuple[int, Projection]:
    """In overload, halving the batch cap may save requests: the cap with the fewest misses, the larger one on ties."""
    best, cap = limits.batch_cap, limits.batch_cap // 2
    while cap >= 1 and found.misses:
        if cap < found.largest_batch:
            narrower = Limits(cap, limits.lanes, limits.max_cores)
            more = found.misses + 1
            other = _with_sacrifice(replays, cores, narrower, replays.run(cores, narrower, enough=more))
            if other.misses >= more:
                break  # what is lost by smaller batches only grows from here
            if other.misses < found.misses:
                best, found = cap, other
        cap //= 2
    return best, found


def plan_steady(
    rate: float, remaining_slo_s: float, sizes_milli: Sequence[int], model: LatencyModel, max_batch: int
) -> tuple[int, Projection] | None:
    """The smallest size, in millicores, that serves a steady `rate` with `remaining_slo_s` left on arrival; None: none
    does.

    An answer before anything runs. The queue must not grow for ever (the paper's h(b, c) >= lambda, with one thread a
    batch, which is the most that a core can do), and `rate` plus one standard deviation, arriving evenly, must be met
    for ten SLOs.
    """
    horizon_s = 10 * remaining_slo_s
    mean = rate * horizon_s
    count = math.ceil(mean + math.sqrt(mean))
    times = [i * horizon_s / count for i in range(count)]
    arrivals = [Arrival(at, at + remaining_slo_s) for at in times]
    most_per_core = max(model.throughput(batch, 1) for batch in range(1, max_batch + 1))
    for milli in sizes_milli:
        cores = milli / 1000
        if rate > cores * most_per_core or remaining_slo_s < fastest_s(model, cores):
            continue
        limits = Limits(max_batch, thread_budget(cores), sizes_milli[-1] / 1000)
        replays = Replays(Situation(0.0, (), (), arrivals, cores, 0.0), [model], limits.max_cores)
        projection = replays.run(cores, limits, enough=1)
        if projection.misses == 0:
            return milli, projection
    return None
