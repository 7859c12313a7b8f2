"""Simulates a service in virtual time: a schedule of requests, a scaling policy and a dispatch policy.

The simulation is event-driven: arrivals, ends of batches, plans, sizes that come into force, replicas that become
ready. The dispatch decisions are made by the product's code in `sponge_core`. All replicas of a service take requests
from one queue, so load balancing is perfect for every system compared.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sponge_core.cpu_sharing import MIN_CORES, thread_budget
from sponge_core.dispatch.decision import DispatchState, Launch, Limits
from sponge_core.dispatch.registry import Dispatcher
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_simulator.metrics import MetricsServer, Scrapes
from sponge_simulator.replica import Replica
from sponge_simulator.result import SimulationResult, TimelinePoint
from sponge_simulator.scaling.interface import Observation, ScalingPolicy, Service, Size
from sponge_simulator.tally import TIE_S, Tally, sent_by_class
from sponge_simulator.throttling import CpuStat

__all__ = ["ClusterModel", "ServiceRun", "SimulationResult", "TimelinePoint", "simulate"]


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """The behaviour of the simulated cluster, which policies cannot see.

    Attributes:
        duration_s: cores are billed from 0 to this time; the remaining queue is then served without billing.
        resize_s: draws the duration of the next resize, in seconds.
        service_ratio: draws true / predicted time of the next batch.
        node_cores: the cores that all replicas share. A replica beyond them starts at the service's `replica_cores`, or
            not at all; a size beyond them is granted as far as there is room.
        takes_s: returns the true time of a batch at full speed, in place of `service_ratio`.
        learn: called with each ended batch and its true time; returns the latency model to predict with from then on.
        by_periods: enforce a quota as the kernel does, in periods of 100 ms; else evenly.
        upload_left_s: returns how long a server expects the rest of an upload to take, given the request, the time of
            the last bytes that it has seen and the present time; None: the true time.
        admits: returns whether servers admit a request, given the queue before it, the model, the largest batch, and
            the cores that all replicas may have for batches; None: they admit every one.
        scrapes: when the CPU use of replicas is read for policies; None: with every plan, so that it is never old.
    """

    duration_s: float
    resize_s: Callable[[], float] = lambda: 0.03
    service_ratio: Callable[[], float] = lambda: 1.0
    node_cores: float = math.inf
    takes_s: Callable[[Launch], float] | None = None
    learn: Callable[[Launch, float], LatencyModel] | None = None
    by_periods: bool = False
    upload_left_s: Callable[[Request, float, float], float] | None = None
    admits: Callable[[Request, EdfQueue, LatencyModel, int, float], bool] | None = None
    scrapes: Scrapes | None = None


def simulate(
    requests: Sequence[Request],
    service: Service,
    scaling: ScalingPolicy,
    dispatch: Dispatcher,
    cluster: ClusterModel,
) -> SimulationResult:
    """Runs all requests to their end.

    The first size that the policy asks for is ready at time 0, as far as there is room. A policy that keeps what it
    finds starts with one replica of the largest size.

    Args:
        requests: ascending in arrival.
    """
    run = ServiceRun(requests, service, scaling, dispatch, cluster)
    while (at := run.next_at()) < math.inf:
        run.advance(at)
    return run.result()


class ServiceRun:
    """The run of one service, event by event. With several on one node, `room` returns the cores left on it."""

    def __init__(
        self,
        requests: Sequence[Request],
        service: Service,
        scaling: ScalingPolicy,
        dispatch: Dispatcher,
        cluster: ClusterModel,
        room: Callable[[], float] | None = None,
    ) -> None:
        self._requests = requests
        self._service = service
        self._scaling = scaling
        self._dispatch = dispatch
        self._cluster = cluster
        self._room = room or (lambda: cluster.node_cores - self.reserved_cores)
        self._models = [service.model]
        self._variants = [service.variants] if service.variants else []
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
        self._replicas = [self._replica(start.cores, 0.0, start.threads) for _ in range(start.replicas)]
        self._size = start
        self._until_request = start.until_request
        self._limits = self._limits_at(start)
        self._now = 0.0
        self._wakes: list[float] = []
        self._position = 0
        self._refused: list[Request] = []  # since the last plan
        self._longest_upload_s = max((request.arrival - request.sent for request in requests), default=0.0)
        self._tally = Tally()
        self._resizes = self._started = 0
        self._core_s = self._used_core_s = 0.0
        self._next_plan = scaling.interval_s
        # Sums since the last plan, for the means that a metrics server would report.
        self._planned_at = 0.0
        self._used_since = self._in_flight_since = 0.0
        self._counted = CpuStat(0.0, 0)
        self._metrics = MetricsServer(cluster.scrapes)
        if cluster.scrapes is None:
            self._metrics.read(0.0, self._replicas)
        self._timeline = [TimelinePoint(0.0, start.cores * start.replicas, start.replicas)]

    @property
    def reserved_cores(self) -> float:
        """The cores that the node has granted to all replicas."""
        return sum(replica.reserved_cores for replica in self._replicas)

    def next_at(self) -> float:
        """The time of the next event; infinity at the end of the run."""
        left = self._position < len(self._requests)
        at = math.inf
        for replica in self._replicas:
            at = min(at, self._next_event(replica))
        if left:
            at = min(at, self._requests[self._position].arrival)
        if self._wakes:
            at = min(at, self._wakes[0])
        if self._now < self._cluster.duration_s or left or self._queue or self._any_busy():
            at = min(at, self._next_plan)
        return max(at, self._now)

    def advance(self, at: float) -> None:
        """Processes all events up to `at`, which is at most the time that `next_at` returned."""
        self._bill(at)
        self._finish_batches()
        for replica in self._replicas:
            replica.step(self._now, self._cluster.resize_s())
        woken = self._arrive() and self._until_request
        if self._next_plan <= self._now or woken:
            self._plan()
            self._next_plan = self._now + self._scaling.interval_s
        self._launch()
        self._record_timeline()

    def _next_event(self, replica: Replica) -> float:
        ready_at = replica.ready_at if replica.ready_at > self._now else math.inf
        return min(replica.next_finish_at, replica.in_force_at, ready_at)

    def _any_busy(self) -> bool:
        return any(not replica.idle for replica in self._replicas)

    def _bill(self, at: float) -> None:
        while self._metrics.next_at < at:
            self._bill_until(self._metrics.next_at)
            self._metrics.read(self._now, self._replicas)
        self._bill_until(at)
        while self._wakes and self._wakes[0] <= at:
            heapq.heappop(self._wakes)

    def _bill_until(self, at: float) -> None:
        elapsed = at - self._now
        if elapsed > 0:
            cores = used = 0.0
            in_flight = len(self._queue)
            for replica in self._replicas:
                busy = replica.busy_cores
                cores += replica.cores
                used += busy
                replica.busy_s += elapsed * busy
                in_flight += replica.requests
            billed = max(0.0, min(at, self._cluster.duration_s) - self._now)
            self._core_s += billed * cores
            self._used_core_s += billed * used
            self._used_since += elapsed * used
            self._in_flight_since += elapsed * in_flight
        self._now = max(at, self._now)

    def _finish_batches(self) -> None:
        now, leaving = self._now, False
        for replica in self._replicas:
            leaving = leaving or replica.retiring
            while replica.next_finish_at <= now:
                launch, took_s = replica.finish(now)
                if self._cluster.learn is not None:
                    self._models = [self._cluster.learn(launch, took_s)]
                in_time = now <= min(request.deadline for request in launch.requests) + TIE_S
                self._dispatch.ended(launch.requests[0].model, len(launch.requests), in_time)
                for request in launch.requests:
                    self._tally.answered(request, now, launch.variant)
        if leaving:
            self._replicas = [replica for replica in self._replicas if not (replica.retiring and replica.idle)]

    def _arrive(self) -> bool:
        """Queues the requests that have arrived by now; returns whether there were any."""
        before = self._position
        while self._position < len(self._requests) and self._requests[self._position].arrival <= self._now:
            request = self._requests[self._position]
            self._scaling.arrived(self._now, request)
            self._position += 1
            if self._is_admitted(request):
                self._queue.push(request)
            else:
                self._refused.append(request)
                self._tally.shed += 1
        return self._position > before

    def _is_admitted(self, request: Request) -> bool:
        if self._cluster.admits is None:
            return True
        service = self._service
        cores = max(1, len(self._serving())) * max(MIN_CORES, service.max_cores - service.overhead_cores)
        return self._cluster.admits(request, self._queue, self._models[0], service.max_batch, cores)

    def _serving(self) -> list[Replica]:
        """The replicas that take batches now."""
        return [replica for replica in self._replicas if not replica.retiring and replica.ready_at <= self._now]

    def _plan(self) -> None:
        now, serving = self._now, [replica for replica in self._replicas if not replica.retiring]
        since = now - self._planned_at
        throttled = self._count(now)
        if self._cluster.scrapes is None:
            self._metrics.read(now, self._replicas)
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
            throttled,
            self._metrics.uses(serving),
            tuple(self._refused),
        )
        self._refused.clear()
        self._planned_at, self._used_since, self._in_flight_since = now, 0.0, 0.0
        wanted = self._scaling.plan(seen)
        self._until_request = wanted.until_request
        self._scale(max(0 if wanted.until_request else 1, wanted.replicas), wanted, serving)
        for replica in serving:
            if replica.resize(self._granted(replica, wanted.cores), now, self._cluster.resize_s()):
                self._resizes += 1
        # The policy sees a new size only once it is in force.
        in_force = serving[0].cores if serving else wanted.cores
        replicas = sum(not replica.retiring for replica in self._replicas)
        self._size = Size(in_force, wanted.batch_cap, replicas, threads=wanted.threads)
        self._limits = self._limits_at(self._size)

    def _count(self, now: float) -> int:
        """Periods that were throttled since the last plan. Where the kernel counts CPU time, that is the use, too."""
        stats = [stat for replica in self._replicas if (stat := replica.cpu_stat(now)) is not None]
        if not stats:
            return 0
        before = self._counted
        self._counted = CpuStat(sum(stat.used_s for stat in stats), sum(stat.throttled_periods for stat in stats))
        self._used_since = max(0.0, self._counted.used_s - before.used_s)
        return max(0, self._counted.throttled_periods - before.throttled_periods)

    def _limits_at(self, size: Size) -> Limits:
        most = self._service.max_cores
        return Limits(size.batch_cap, thread_budget(most), max(most - self._service.overhead_cores, MIN_CORES))

    def _uploads(self) -> tuple[Arrival, ...]:
        """Requests that were sent and have not arrived, with the arrival that the servers expect."""
        now, found = self._now, []
        expects = self._cluster.upload_left_s
        received_at = max((replica.awake_until(now) for replica in self._replicas), default=now)
        for index in range(self._position, len(self._requests)):
            request = self._requests[index]
            if request.arrival > now + self._longest_upload_s:
                break
            if request.sent <= now:
                at = request.arrival if expects is None else now + expects(request, received_at, now)
                found.append(Arrival(at, request.deadline, request.model, request.size))
        return tuple(sorted(found, key=lambda upload: upload.at))

    def _replica(self, cores: float, ready_at: float, threads: int | None) -> Replica:
        return Replica(cores, ready_at, self._service.overhead_cores, self._cluster.by_periods, threads)

    def _granted(self, replica: Replica, wanted: float) -> float:
        """The wanted size, or the largest size below it for which the node has room; the startup size of a new one."""
        most = replica.reserved_cores + self._room()
        if self._service.startup_cores is not None and replica.ready_at > self._now:
            return max(replica.cores, min(self._service.startup_cores, most))
        if wanted <= most + 1e-9:
            return wanted
        fitting = (size for size in self._service.sizes if replica.cores < size <= most + 1e-9)
        return max(fitting, default=replica.cores)

    def _scale(self, replicas: int, wanted: Size, serving: list[Replica]) -> None:
        service = self._service
        first = wanted.cores if service.startup_cores is None else min(service.startup_cores, service.max_cores)
        while len(serving) < replicas:
            # Where another one of that size has no room, it starts at the size that replicas are meant to have.
            cores = first if first <= self._room() else service.replica_cores
            if cores > min(first, self._room()):
                break
            added = self._replica(cores, self._now + service.cold_start_s, wanted.threads)
            self._replicas.append(added)
            serving.append(added)
            self._started += 1
        while len(serving) > replicas:  # the newest first: it may not be ready yet
            serving.pop().retiring = True
        self._replicas = [replica for replica in self._replicas if not (replica.retiring and replica.idle)]

    def _launch(self) -> None:
        now = self._now
        serving = self._serving()
        limits = self._limits if len(serving) <= 1 else replace(self._limits, servers=len(serving))
        for replica in serving:
            if not self._queue:
                return
            cores = replica.usable_cores
            state = DispatchState(now, self._queue, replica.running(now), cores, self._models, limits, self._variants)
            decision = self._dispatch.decide(state)
            replica.carry_out(decision, self._queue, now, self._takes_s)
            self._tally.shed += len(decision.sheds)
            if decision.wake_at is not None:
                heapq.heappush(self._wakes, max(decision.wake_at, now + 1e-6))

    def _takes_s(self, launch: Launch) -> float:
        cluster = self._cluster
        return launch.work_s * cluster.service_ratio() if cluster.takes_s is None else cluster.takes_s(launch)

    def _record_timeline(self) -> None:
        if self._now > self._cluster.duration_s:
            return
        cores, last = 0.0, self._timeline[-1]
        for replica in self._replicas:
            cores += replica.cores
        if cores != last.cores or len(self._replicas) != last.replicas:
            self._timeline.append(TimelinePoint(self._now, cores, len(self._replicas)))

    def result(self) -> SimulationResult:
        """The result so far, complete at the end of the run."""
        return SimulationResult(
            len(self._requests),
            self._tally.in_time,
            self._tally.late,
            self._tally.shed,
            self._core_s,
            self._used_core_s,
            self._cluster.duration_s,
            self._resizes,
            self._started,
            tuple(self._tally.latencies_s),
            self._tally.in_time_by_class,
            sent_by_class(self._requests),
            self._tally.in_time_by_variant,
            tuple(self._timeline),
        )
