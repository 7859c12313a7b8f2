"""Runs a schedule of requests through a scaling policy and a dispatch rule in virtual time.

Discrete events: arrivals, ends of batches, plans, sizes that come into force, replicas that become ready. Everything
that decides is production code from `sponge_core`; this module moves the clock and keeps the account. All replicas
of a service take from one queue, so the load balancing of the systems compared here is perfect. Knows nothing of real
time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from sponge_core.cpu_sharing import MIN_CORES, thread_budget
from sponge_core.dispatch.decision import DispatchState, Launch, Limits
from sponge_core.dispatch.registry import Dispatcher
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_simulator.replica import Replica
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Service, Size

__all__ = ["ClusterModel", "ServiceRun", "SimulationResult", "TimelinePoint", "simulate"]


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """What the simulated cluster does, beyond what policies know of it.

    Attributes:
        duration_s: cores are charged from 0 to here; the queue is served to its end afterwards.
        resize_s: draws how long the next resize takes.
        service_ratio: draws true / predicted time of the next batch.
        node_cores: what all replicas together can have. A replica beyond it does not start, a size beyond it is granted
            as far as there is room.
        takes_s: gives the true time of a batch at full speed instead of `service_ratio`.
        learn: told of each batch that ended and of its true time, gives the model that is predicted by from then on.
        by_periods: a quota is given out as the kernel does, so much in each 100 ms; else evenly.
        upload_left_s: how long a server expects the rest of an upload to take, by what it had received at one time and
            expects at another, later one; None: as long as it will.
    """

    duration_s: float
    resize_s: Callable[[], float] = lambda: 0.03
    service_ratio: Callable[[], float] = lambda: 1.0
    node_cores: float = math.inf
    takes_s: Callable[[Launch], float] | None = None
    learn: Callable[[Launch, float], LatencyModel] | None = None
    by_periods: bool = False
    upload_left_s: Callable[[Request, float, float], float] | None = None


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """From `at_s` on so many cores and replicas were billed."""

    at_s: float
    cores: float
    replicas: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The account of a run; every request is in exactly one of in_time, late and shed.

    `resizes` counts changes of a running replica's size, `started` replicas that were added.
    """

    sent: int
    in_time: int
    late: int
    shed: int
    core_seconds: float
    used_core_seconds: float
    duration_s: float
    resizes: int
    started: int
    latencies_s: tuple[float, ...]  # of the answered requests, from the client's send time
    in_time_by_class: dict[str, int] = field(default_factory=dict)
    sent_by_class: dict[str, int] = field(default_factory=dict)
    timeline: tuple[TimelinePoint, ...] = ()

    @property
    def violations(self) -> float:
        """Fraction of all sent requests that had no answer in time."""
        return 1.0 - self.in_time / self.sent if self.sent else 0.0

    @property
    def mean_cores(self) -> float:
        return self.core_seconds / self.duration_s

    @property
    def attainment(self) -> dict[str, float]:
        """In time over sent, by SLO class."""
        return {name: self.in_time_by_class.get(name, 0) / sent for name, sent in sorted(self.sent_by_class.items())}


def simulate(
    requests: Sequence[Request],
    service: Service,
    scaling: ScalingPolicy,
    dispatch: Dispatcher,
    world: ClusterModel,
) -> SimulationResult:
    """Runs `requests` (ascending in arrival) to their end.

    What the policy asks for first is in force and ready at time 0, as far as there is room; one that keeps what it
    finds begins with one replica of the largest size.
    """
    run = ServiceRun(requests, service, scaling, dispatch, world)
    while (at := run.next_at()) < math.inf:
        run.advance(at)
    return run.result()


class ServiceRun:
    """One service's run, event by event, so that several may share a node: then `room` says what is left of it."""

    def __init__(
        self,
        requests: Sequence[Request],
        service: Service,
        scaling: ScalingPolicy,
        dispatch: Dispatcher,
        world: ClusterModel,
        room: Callable[[], float] | None = None,
    ) -> None:
        self._requests = requests
        self._service = service
        self._scaling = scaling
        self._dispatch = dispatch
        self._world = world
        self._room = room or (lambda: world.node_cores - self.reserved_cores)
        self._models = [service.model]
        self._queue = EdfQueue()
        self._replicas: list[Replica] = []
        most = self._room()
        found = Size(
            max((size for size in service.sizes if size <= most), default=service.min_cores), service.max_batch
        )
        start = scaling.plan(Observation(0.0, self._queue, (), found, 1, 0.0, 0.0))
        if start.cores * start.replicas > most:
            cores = min(start.cores, found.cores)
            start = replace(start, cores=cores, replicas=min(start.replicas, max(1, int(most / cores))))
        self._replicas = [self._replica(start.cores, 0.0) for _ in range(start.replicas)]
        self._size = start
        self._until_request = start.until_request
        self._limits = self._limits_at(start)
        self._now = 0.0
        self._wakes: list[float] = []
        self._position = 0
        self._longest_upload_s = max((request.arrival - request.sent for request in requests), default=0.0)
        self._in_time = self._late = self._shed = self._resizes = self._started = 0
        self._latencies: list[float] = []
        self._in_time_by_class: dict[str, int] = {}
        self._core_s = self._used_core_s = 0.0
        self._next_plan = scaling.interval_s
        # Since the last plan, for what a metrics server would report.
        self._planned_at = 0.0
        self._used_since = self._in_flight_since = 0.0
        self._timeline = [TimelinePoint(0.0, start.cores * start.replicas, start.replicas)]

    @property
    def reserved_cores(self) -> float:
        """What the node has granted to all replicas."""
        return sum(replica.reserved_cores for replica in self._replicas)

    def next_at(self) -> float:
        """When something happens next; infinity once all is over."""
        left = self._position < len(self._requests)
        at = math.inf
        for replica in self._replicas:
            at = min(at, self._next_event(replica))
        if left:
            at = min(at, self._requests[self._position].arrival)
        if self._wakes:
            at = min(at, self._wakes[0])
        if self._now < self._world.duration_s or left or self._queue or self._any_busy():
            at = min(at, self._next_plan)
        return max(at, self._now)

    def advance(self, at: float) -> None:
        """Lets everything happen that is due by `at`, the time that `next_at` said or an earlier one."""
        self._charge(at)
        self._finish_batches()
        for replica in self._replicas:
            replica.step(self._now, self._world.resize_s())
        woken = self._arrive() and self._until_request
        if self._next_plan <= self._now or woken:
            self._next_plan = self._now + self._scaling.interval_s
            self._plan()
        self._launch()
        self._account()

    def _next_event(self, replica: Replica) -> float:
        ready_at = replica.ready_at if replica.ready_at > self._now else math.inf
        return min(replica.next_finish_at, replica.in_force_at, ready_at)

    def _any_busy(self) -> bool:
        return any(not replica.idle for replica in self._replicas)

    def _charge(self, at: float) -> None:
        elapsed = at - self._now
        if elapsed > 0:
            cores = used = 0.0
            in_flight = len(self._queue)
            for replica in self._replicas:
                cores += replica.cores
                used += replica.busy_cores
                in_flight += replica.requests
            charged = max(0.0, min(at, self._world.duration_s) - self._now)
            self._core_s += charged * cores
            self._used_core_s += charged * used
            self._used_since += elapsed * used
            self._in_flight_since += elapsed * in_flight
        self._now = at
        while self._wakes and self._wakes[0] <= at:
            heapq.heappop(self._wakes)

    def _finish_batches(self) -> None:
        now, leaving = self._now, False
        for replica in self._replicas:
            leaving = leaving or replica.retiring
            while replica.next_finish_at <= now:
                launch, took_s = replica.finish(now)
                batch = launch.requests
                if self._world.learn is not None:
                    self._models = [self._world.learn(launch, took_s)]
                in_time = now <= min(request.deadline for request in batch) + 1e-9
                self._dispatch.ended(batch[0].model, len(batch), in_time)
                for request in batch:
                    self._latencies.append(now - request.sent)
                    if now <= request.deadline + 1e-9:
                        self._in_time += 1
                        name = request.slo_class
                        self._in_time_by_class[name] = self._in_time_by_class.get(name, 0) + 1
                    else:
                        self._late += 1
        if leaving:
            self._replicas = [replica for replica in self._replicas if not (replica.retiring and replica.idle)]

    def _arrive(self) -> bool:
        """Takes in what has arrived by now; whether anything has."""
        before = self._position
        while self._position < len(self._requests) and self._requests[self._position].arrival <= self._now:
            request = self._requests[self._position]
            self._scaling.arrived(self._now, request)
            self._queue.push(request)
            self._position += 1
        return self._position > before

    def _plan(self) -> None:
        now, serving = self._now, [replica for replica in self._replicas if not replica.retiring]
        since = now - self._planned_at
        seen = Observation(
            now,
            self._queue,
            tuple(batch for replica in self._replicas for batch in replica.running(now)),
            self._size,
            sum(replica.ready_at <= now for replica in serving),
            self._used_since / since if since else 0.0,
            self._in_flight_since / since if since else 0.0,
            self._uploads(),
            self._models[0],
        )
        self._planned_at, self._used_since, self._in_flight_since = now, 0.0, 0.0
        wanted = self._scaling.plan(seen)
        self._until_request = wanted.until_request
        self._scale(max(0 if wanted.until_request else 1, wanted.replicas), wanted.cores, serving)
        for replica in serving:
            if replica.resize(self._granted(replica, wanted.cores), now, self._world.resize_s()):
                self._resizes += 1
        # What is asked for counts as in force for the policy once it is.
        in_force = serving[0].cores if serving else wanted.cores
        self._size = Size(in_force, wanted.batch_cap, sum(not replica.retiring for replica in self._replicas))
        self._limits = self._limits_at(self._size)

    def _limits_at(self, size: Size) -> Limits:
        most = self._service.max_cores
        return Limits(size.batch_cap, thread_budget(most), max(most - self._service.overhead_cores, MIN_CORES))

    def _uploads(self) -> tuple[Arrival, ...]:
        """What was sent and is not here yet, as far as the servers can tell when it will be."""
        now, found = self._now, []
        expects = self._world.upload_left_s
        received_at = max((replica.awake_until(now) for replica in self._replicas), default=now)
        for index in range(self._position, len(self._requests)):
            request = self._requests[index]
            if request.arrival > now + self._longest_upload_s:
                break
            if request.sent <= now:
                at = request.arrival if expects is None else now + expects(request, received_at, now)
                found.append(Arrival(at, request.deadline, request.model))
        return tuple(sorted(found, key=lambda upload: upload.at))

    def _replica(self, cores: float, ready_at: float) -> Replica:
        return Replica(cores, ready_at, self._service.overhead_cores, self._world.by_periods)

    def _granted(self, replica: Replica, wanted: float) -> float:
        """The size, or the largest one towards it for which the node has room, as whoever asks learns its ceiling."""
        most = replica.reserved_cores + self._room() + 1e-9
        if wanted <= most:
            return wanted
        return max((size for size in self._service.sizes if replica.cores < size <= most), default=replica.cores)

    def _scale(self, replicas: int, cores: float, serving: list[Replica]) -> None:
        while len(serving) < replicas and cores <= self._room():
            added = self._replica(cores, self._now + self._service.cold_start_s)
            self._replicas.append(added)
            serving.append(added)
            self._started += 1
        while len(serving) > replicas:  # the youngest first: it may not even be ready
            serving.pop().retiring = True
        self._replicas = [replica for replica in self._replicas if not (replica.retiring and replica.idle)]

    def _launch(self) -> None:
        now = self._now
        for replica in self._replicas:
            if not self._queue:
                return
            if replica.retiring or replica.ready_at > now:
                continue
            cores = replica.usable_cores
            decision = self._dispatch.decide(
                DispatchState(now, self._queue, replica.running(now), cores, self._models, self._limits)
            )
            for lost in decision.sheds:
                self._queue.discard(lost.request.id)
                self._shed += 1
            for launch in decision.launches:
                for request in launch.requests:
                    self._queue.discard(request.id)
                replica.start(launch, now, self._takes_s(launch))
            if decision.wake_at is not None:
                heapq.heappush(self._wakes, max(decision.wake_at, now + 1e-6))

    def _takes_s(self, launch: Launch) -> float:
        world = self._world
        return launch.work_s * world.service_ratio() if world.takes_s is None else world.takes_s(launch)

    def _account(self) -> None:
        if self._now > self._world.duration_s:
            return
        cores, last = 0.0, self._timeline[-1]
        for replica in self._replicas:
            cores += replica.cores
        if cores != last.cores or len(self._replicas) != last.replicas:
            self._timeline.append(TimelinePoint(self._now, cores, len(self._replicas)))

    def result(self) -> SimulationResult:
        """The account so far; whole once all is over."""
        sent_by_class: dict[str, int] = {}
        for request in self._requests:
            sent_by_class[request.slo_class] = sent_by_class.get(request.slo_class, 0) + 1
        return SimulationResult(
            len(self._requests),
            self._in_time,
            self._late,
            self._shed,
            self._core_s,
            self._used_core_s,
            self._world.duration_s,
            self._resizes,
            self._started,
            tuple(self._latencies),
            self._in_time_by_class,
            sent_by_class,
            tuple(self._timeline),
        )
