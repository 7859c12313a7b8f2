"""The run of a service of several pods, event by event: requests, hops, reports, batches and faults."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from sponge_core.dispatch.decision import Shed
from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView
from sponge_core.routing.pod_load import PodLoad
from sponge_core.routing.pod_table import Choice, Ending, PodTable
from sponge_core.routing.registry import RULES
from sponge_simulator.fronts.pod import Pod
from sponge_simulator.fronts.settings import Fault, Fronts, Site
from sponge_simulator.tally import Tally

__all__ = ["FrontResult", "simulate_fronts"]


@dataclass(frozen=True, slots=True)
class FrontResult:
    """How the requests ended: each of them in exactly one of `in_time`, `late`, `shed` and `failed`.

    `moved` counts those that were handed over or stolen.
    """

    sent: int
    in_time: int
    late: int
    shed: int
    failed: int
    moved: int
    latencies_s: tuple[float, ...]

    @property
    def missed(self) -> int:
        """Requests without an answer in time."""
        return self.sent - self.in_time


@dataclass(slots=True)
class _Front:
    """A front, its name since its last start, and whether it runs."""

    name: str
    table: PodTable
    up: bool = True


@dataclass(slots=True)
class _Way:
    """Where a request is: the front that has it, the pod that it was sent to, how often it was sent, and whether that
    pod has passed it on to another one.
    """

    front: _Front
    choice: Choice
    tries: int
    moved: bool = False


class _KubeProxy:
    """Any pod of the Service: nothing is learned from how requests end."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        return int(self._draw() * len(pods)) if pods else None


def _sent(request: Request) -> float:
    return request.sent


def _arrival(request: Request) -> float:
    return request.arrival


def simulate_fronts(requests: Sequence[Request], site: Site, fronts: Fronts, seed: int = 1) -> FrontResult:
    """Runs all requests to their end.

    Args:
        requests: ascending in arrival; a front chooses when a request has arrived.
        seed: of what the fronts draw.
    """
    return _Run(requests, site, fronts, seed).to_end()


class _Run:
    def __init__(self, requests: Sequence[Request], site: Site, fronts: Fronts, seed: int) -> None:
        self._header_at: Callable[[Request], float] = _sent if fronts.at_header else _arrival
        self._requests = sorted(requests, key=self._header_at)
        self._setting = fronts
        self._network = site.network
        self._draw = random.Random(seed)
        names = [f"pod-{number}" for number in range(site.pods)]
        self._pods = {name: Pod(name, site.service, site.dispatch(), site.takes_s, site.by_periods) for name in names}
        self._endpoints = list(self._pods)
        self._fronts = [self._front(f"front-{n}") for n in range(fronts.count)]
        self._known_fronts = list(self._fronts)  # as clients know them
        self._ways: dict[int, _Way] = {}
        self._tally = Tally()
        self._failed = self._moved = 0
        self._reports: dict[str, PodLoad] = {}  # the last of each pod
        self._asking: set[str] = set()  # pods that have asked another for work
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._position = 0
        for name in self._pods:
            self._at(self._draw.random() * self._network.report_every_s, partial(self._report, name))
        for fault in site.faults:
            self._at(fault.from_s, partial(self._break, fault))

    def _front(self, name: str) -> _Front:
        chosen = self._setting.rule
        table = PodTable(
            name, _KubeProxy(self._draw.random) if chosen is None else RULES[chosen].make(self._draw.random)
        )
        table.keep(self._endpoints)
        return _Front(name, table)

    def _at(self, at: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, action))

    def to_end(self) -> FrontResult:
        requests = self._requests
        while self._position < len(requests) or self._ways:
            arrival = self._header_at(requests[self._position]) if self._position < len(requests) else math.inf
            pods_at = min(pod.next_at() for pod in self._pods.values())
            self._now = max(self._now, min(arrival, pods_at, self._events[0][0] if self._events else math.inf))
            while self._events and self._events[0][0] <= self._now:
                heapq.heappop(self._events)[2]()
            while self._position < len(requests) and self._header_at(requests[self._position]) <= self._now:
                self._enter(requests[self._position])
                self._position += 1
            for pod in self._pods.values():  # after all that has reached them at this moment
                if pod.next_at() <= self._now:
                    self._step(pod)
        tally = self._tally
        return FrontResult(
            len(requests),
            tally.in_time,
            tally.late,
            tally.shed,
            self._failed,
            self._moved,
            tuple(tally.latencies_s),
        )

    def _enter(self, request: Request) -> None:
        known = self._known_fronts
        front = known[int(self._draw.random() * len(known))] if known else None
        if front is None or not front.up:
            self._failed += 1
        else:
            self._send(front, request, 1)

    def _send(self, front: _Front, request: Request, tries: int) -> None:
        choice = front.table.choose(self._now, request)
        if choice is None:
            self._failed += 1
            return
        self._ways[request.id] = _Way(front, choice, tries)
        self._at(self._now + self._network.hop_s, lambda: self._reach(request))

    def _reach(self, request: Request) -> None:
        way = self._ways.get(request.id)
        if way is None:
            return
        pod = self._pods[way.choice.pod]
        if not pod.accepts:
            self._lose(request)
        elif (awake_at := pod.wakes_at(self._now)) > self._now:
            self._at(awake_at, lambda: self._reach(request))
        elif not self._hand_over(request, pod):
            pod.announce(request, way.front.name, way.choice.number)
            self._receive(request, pod, request.arrival + self._network.hop_s)

    def _receive(self, request: Request, pod: Pod, at: float) -> None:
        """The pod has the whole request at `at`, or once it is awake after that."""
        at = pod.wakes_at(self._now) if at <= self._now else at
        if at <= self._now:
            pod.receive(request, self._now)
        else:
            self._at(at, lambda: self._receive(request, pod, at))

    def _step(self, pod: Pod) -> None:
        found = pod.step(self._now)
        for launch in found.ended:
            for request in launch.requests:
                if self._end(request, "answered"):
                    self._tally.answered(request, self._now)
        for lost in found.shed:
            if not self._second_try(lost, pod) and self._end(lost.request, "refused"):
                self._tally.shed += 1
        if self._setting.steal and pod.idle:
            self._steal(pod)

    def _hand_over(self, request: Request, pod: Pod) -> bool:
        """Whether a pod that cannot meet a request sends it back on arrival, and the proxy sends it to any other."""
        if not self._setting.hand_over or pod.admits(request, self._now) or (other := self._any_other(pod)) is None:
            return False
        way = self._ways[request.id]
        self._moved += 1
        told = self._now + self._network.hop_s
        self._at(told, lambda: way.front.table.ended(way.choice, "refused", told))
        self._at(told + self._network.hop_s, lambda: self._arrive([request], other))
        return True

    def _second_try(self, lost: Shed, pod: Pod) -> bool:
        """Whether a request that the pod has shed for its own load goes to any other one: the proxy sends it there."""
        way = self._ways.get(lost.request.id)
        if not self._setting.second_try or lost.reason != "sacrificed" or way is None or way.moved:
            return False
        if (other := self._any_other(pod)) is None:
            return False
        way.moved = True
        self._moved += 1
        self._at(self._now + 2 * self._network.hop_s, lambda: self._arrive([lost.request], other))
        return True

    def _any_other(self, pod: Pod) -> Pod | None:
        """Any other pod that the fronts know; None if there is none."""
        others = [name for name in self._endpoints if name != pod.name]
        return self._pods[others[int(self._draw.random() * len(others))]] if others else None

    def _steal(self, pod: Pod) -> None:
        """An idle pod asks the pod with the longest reported queue for a batch."""
        queues = [(load.waiting, name) for name, load in self._reports.items() if name != pod.name]
        longest, name = max(queues, default=(0, ""))
        if longest == 0 or pod.name in self._asking:
            return
        self._asking.add(pod.name)

        def asked() -> None:
            given = self._pods[name].give(self._now)
            self._moved += len(given)
            self._at(self._now + self._network.hop_s, lambda: got(given))

        def got(given: list[Request]) -> None:
            self._asking.discard(pod.name)
            self._arrive(given, pod)

        self._at(self._now + self._network.hop_s, asked)

    def _arrive(self, requests: list[Request], pod: Pod) -> None:
        """Requests reach a pod that did not get them from a front."""
        awake_at = pod.wakes_at(self._now)
        if requests and pod.accepts and awake_at > self._now:
            self._at(awake_at, lambda: self._arrive(requests, pod))
        elif requests and pod.accepts:
            pod.take(requests, self._now)
        else:
            for request in requests:
                self._lose(request)

    def _end(self, request: Request, ending: Ending) -> bool:
        """A pod has answered or refused a request; returns whether a front still waits for that."""
        way = self._ways.pop(request.id, None)
        if way is not None:
            at, told = self._now + self._network.hop_s, "refused" if way.moved else ending
            self._at(at, lambda: way.front.table.ended(way.choice, told, at))
        return way is not None

    def _lose(self, request: Request) -> None:
        """The connection or the answer fails; the front may try another pod one hop later."""
        way = self._ways.get(request.id)
        if way is None:
            return
        at = self._now + self._network.hop_s

        def told() -> None:
            way.front.table.ended(way.choice, "failed", at)
            if self._ways.pop(request.id, None) is None:
                return
            if way.tries <= self._setting.retries and at < request.deadline:
                self._send(way.front, request, way.tries + 1)
            else:
                self._failed += 1

        self._at(at, told)

    def _report(self, name: str) -> None:
        awake_at = self._pods[name].wakes_at(self._now)
        if awake_at > self._now:
            self._at(awake_at, lambda: self._report(name))
            return
        load = self._pods[name].report(self._now)
        if load is not None:
            at = self._now + self._network.report_delay_s

            def read() -> None:
                self._reports[name] = load
                for front in self._fronts:
                    front.table.reported(name, load, at)

            self._at(at, read)
        self._at(self._now + self._network.report_every_s, lambda: self._report(name))

    def _break(self, fault: Fault) -> None:
        if fault.kind == "front dies":
            self._break_front(fault)
            return
        name = next(iter(self._pods))
        pod = self._pods[name]
        for request in pod.fail(fault.kind):
            self._lose(request)
        if fault.kind in ("pod dies", "pod hangs") and fault.noticed:
            self._at(fault.from_s + fault.noticed_s, lambda: self._keep([each for each in self._pods if each != name]))

        def over() -> None:
            for request in pod.recover():
                self._lose(request)
            self._keep(list(self._pods))

        self._at(fault.until_s, over)

    def _keep(self, names: list[str]) -> None:
        self._endpoints = names
        for front in self._fronts:
            front.table.keep(names)

    def _break_front(self, fault: Fault) -> None:
        front = self._fronts[0]
        front.up = False
        for request_id, way in list(self._ways.items()):
            if way.front is front:  # its pod works on it for nobody
                del self._ways[request_id]
                self._failed += 1
        if fault.noticed:
            self._at(fault.from_s + fault.noticed_s, lambda: self._known_fronts.remove(front))

        def over() -> None:
            self._fronts[0] = self._front(f"{front.name}-again")
            self._known_fronts = list(self._fronts)

        self._at(fault.until_s, over)
