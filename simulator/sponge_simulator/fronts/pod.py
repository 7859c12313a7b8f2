"""A simulated pod: a queue of its own, the batches that it runs, what it reports, and the faults that it may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sponge_core.control_api import LatencyCoefficients
from sponge_core.cpu_sharing import MIN_CORES, thread_budget
from sponge_core.dispatch.decision import DispatchState, Launch, Limits, Shed
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.routing.pod_load import MOST_LISTED, PodLoad, RunningBatch
from sponge_core.routing.pod_replay import PodReplay
from sponge_simulator.fronts.settings import FaultKind
from sponge_simulator.replica import Replica
from sponge_simulator.scaling.interface import Service

__all__ = ["Pod", "Stepped"]

LYING_TIMES = 4.0
"""Batches of a pod that lies take so many times as long."""


class Stepped(NamedTuple):
    """What a step of a pod has brought: batches that ended, and requests that it refuses."""

    ended: list[Launch]
    shed: list[Shed]


class Pod:
    """A pod of the service's largest size.

    Args:
        takes_s: draws the true time of a batch at full speed.

    Attributes:
        fault: what is wrong with it now.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        dispatch: Dispatcher,
        takes_s: Callable[[Launch], float],
        by_periods: bool = False,
    ) -> None:
        self.name = name
        self.fault: FaultKind | None = None
        self._service = service
        self._dispatch = dispatch
        self._true_s = takes_s
        self._by_periods = by_periods
        self._quota = service.max_cores
        self._cores = max(self._quota - service.overhead_cores, MIN_CORES)
        self._limits = Limits(service.max_batch, thread_budget(self._cores), self._cores)
        self._latency = LatencyCoefficients.of(service.model)
        self._received: dict[str, int] = {}
        self._start()

    def _start(self) -> None:
        self.queue = EdfQueue()
        self._replica = Replica(self._quota, 0.0, self._service.overhead_cores, self._by_periods)
        self._running: list[Request] = []
        self._wake_at = math.inf
        self._received.clear()
        self._uploads: dict[int, Request] = {}

    @property
    def accepts(self) -> bool:
        """Whether a request that reaches it comes into its queue, and does not fail at once."""
        return self.fault not in ("pod dies", "pod errs")

    @property
    def serving(self) -> bool:
        """Whether requests wait and run in it."""
        return self.fault in (None, "pod lies")

    @property
    def idle(self) -> bool:
        """Whether it serves and has no request."""
        return self.serving and not self.queue and self._replica.idle

    def next_at(self) -> float:
        """When it has to step again if nothing happens before."""
        return min(self._replica.next_finish_at, self._wake_at) if self.serving else math.inf

    def fail(self, kind: FaultKind) -> list[Request]:
        """A fault begins; returns the requests that are lost by that at once."""
        self.fault = kind
        return self._restart() if kind in ("pod dies", "pod errs") else []

    def recover(self) -> list[Request]:
        """The fault is over, and the pod starts anew; returns the requests that are lost by that."""
        self.fault = None
        return self._restart()

    def _restart(self) -> list[Request]:
        lost = [*self.queue, *self._running, *self._uploads.values()]
        self._start()
        return lost

    def admits(self, request: Request, now: float) -> bool:
        """Whether by its queue it can meet one more request, and no fewer of the others."""
        load = self.report(now)
        if load is None:
            return True
        replay = PodReplay(load, self._service.model, now)
        return replay.outlook(request.deadline).misses <= replay.outlook().misses

    def wakes_at(self, now: float) -> float:
        """The first moment from `now` on at which it can receive and report: not while its quota is used up."""
        return self._replica.wakes_at(now)

    def announce(self, request: Request, front: str, number: int) -> None:
        """The header of a request has arrived as the front's `number`-th."""
        self._received[front] = max(number, self._received.get(front, 0))
        self._uploads[request.id] = request

    def receive(self, request: Request, now: float) -> None:
        """Queues a request whose body has arrived, too; the pod steps at once."""
        if self._uploads.pop(request.id, None) is not None:
            self.take([request], now)

    def give(self, now: float) -> list[Request]:
        """The batch that an idle pod of the same size would start, out of this one's queue."""
        if not self.serving or not self.queue:
            return []
        decision = self._dispatch.decide(self._state(now)._replace(running=()))
        given = list(decision.launches[0].requests) if decision.launches else []
        for request in given:
            self.queue.discard(request.id)
        return given

    def take(self, requests: Sequence[Request], now: float) -> None:
        """Queues requests that another pod gave; this one steps at once."""
        for request in requests:
            self.queue.push(request)
        self._wake_at = now

    def step(self, now: float) -> Stepped:
        """Ends the batches that are due and starts the next ones."""
        found = Stepped([], [])
        self._wake_at = math.inf
        while self._replica.next_finish_at <= now:
            launch, _ = self._replica.finish(now)
            gone = {request.id for request in launch.requests}
            self._running = [request for request in self._running if request.id not in gone]
            found.ended.append(launch)
        if self.queue:
            decision = self._dispatch.decide(self._state(now))
            self._replica.carry_out(decision, self.queue, now, self._takes_s)
            for launch in decision.launches:
                self._running.extend(launch.requests)
            found.shed.extend(decision.sheds)
            if decision.wake_at is not None:
                self._wake_at = max(decision.wake_at, now + 1e-6)
        return found

    def _state(self, now: float) -> DispatchState:
        running, cores = self._replica.running(now), self._replica.usable_cores
        return DispatchState(now, self.queue, running, cores, [self._service.model], self._limits)

    def _takes_s(self, launch: Launch) -> float:
        return self._true_s(launch) * (LYING_TIMES if self.fault == "pod lies" else 1.0)

    def report(self, now: float) -> PodLoad | None:
        """What it tells the fronts; None if it tells nothing."""
        if self.fault in ("pod dies", "pod hangs"):
            return None
        model, honest = self._service.model, self.fault is None
        listed: list[tuple[float, float]] = []
        if honest:
            coming = [(request.deadline, request.deadline - request.sent) for request in self._uploads.values()]
            waiting = zip(self.queue.deadlines[0], self.queue.slos[0], strict=True) if self.queue else ()
            listed = sorted([*waiting, *coming])
        rates = self.queue.rates(now) if honest else []
        running = self._replica.running(now) if honest else ()
        milli = round(1000 * self._cores)
        # Without checks: it is made a hundred times a second.
        return PodLoad.model_construct(
            now_s=now,
            accepting=True,
            cores_milli=milli,
            most_milli=milli,
            batch_cap=self._limits.batch_cap,
            lanes=self._limits.lanes,
            slack_s=[deadline - now for deadline, _ in listed[:MOST_LISTED]],
            had_s=[had_s for _, had_s in listed[:MOST_LISTED]],
            rate_rps=rates[0] if rates else 0.0,
            more=max(0, len(listed) - MOST_LISTED),
            running=[
                RunningBatch.model_construct(
                    requests=size, threads=batch.threads, left_s=batch.left_s, slack_s=batch.deadline - now
                )
                for batch, size in zip(running, self._replica.batch_sizes, strict=False)
            ],
            latency=self._latency,
            error=model.error,
            interference=model.interference,
            received=dict(self._received),
        )
