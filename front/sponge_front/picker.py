"""Chooses the pod of a request from its headers, and learns how each request ended.

Headers become a deadline by the same function as in the server, and the rule of the core chooses. Times are seconds on
the clock that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from sponge_core.deadlines import Arrival, BadHeaderError, SloPolicy, resolve
from sponge_core.edf_queue import Request
from sponge_core.routing.interface import RoutingRule, candidates
from sponge_core.routing.pod_load import PodLoad
from sponge_core.routing.pod_table import Choice, Ending, PodTable
from sponge_front.pods import Pod

__all__ = ["Pick", "Picker", "ending_of", "is_grpc", "is_inference"]

UNKNOWN_SLO = SloPolicy(1.0)
"""Before any pod has told its SLO."""

OVERDUE_S = 0.1
"""A pod answers or refuses a request by its deadline; so much later, the answer must be here."""

GRPC = b"application/grpc"
INFERENCE = "/ModelInfer"
REPOSITORY = "/v2/repository/"

REFUSED = (b"429", b"503", b"504")
GRPC_REFUSED, GRPC_FAILED = (b"4", b"8", b"14"), (b"2", b"13")
"""Deadline exceeded, resource exhausted and unavailable; unknown and internal."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Where a request goes.

    Attributes:
        choice: names the request among those of its pod.
        address: host and port of the pod.
        sender: tells the pod which request of which front this is.
        deadline: when it is due, on the picker's clock.
    """

    choice: Choice
    address: str
    sender: str
    deadline: float


class Picker:
    """The pods of one service as one front sees them.

    Attributes:
        pods: the present ones, by name.
    """

    def __init__(
        self, front: str, rule: RoutingRule, *, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        """`front`: a name that no other front has. `clock` gives monotonic seconds, `wall_clock` epoch seconds."""
        self.pods: Mapping[str, Pod] = {}
        self._front = front
        self._table = PodTable(front, rule)
        self._clock = clock
        self._wall_clock = wall_clock
        self._policy = UNKNOWN_SLO
        self._requests = 0
        self._turn = 0

    def keep(self, pods: Iterable[Pod]) -> None:
        """Sets which pods there are."""
        self.pods = {pod.name: pod for pod in pods}
        self._table.keep(self.pods)

    def reported(self, name: str, load: PodLoad) -> None:
        """Takes in the load of a pod."""
        self._table.reported(name, load, self._clock())
        slos = load.slo_s
        if "" in slos:
            self._policy = SloPolicy(slos[""], {name: slo_s for name, slo_s in slos.items() if name})

    def pick(self, headers: Mapping[bytes, bytes], hosts: Container[str] | None = None) -> Pick | None:
        """The pod of a request with these headers, in lower case; None: any pod will do, or there is none.

        Args:
            hosts: addresses of the pods to choose from; None: all.
        """
        if not is_inference(headers):
            return None
        request = self._request(headers)
        choice = self._table.choose(self._clock(), request, self._among(hosts))
        if choice is None:
            return None
        address = _address(self.pods[choice.pod], headers)
        return Pick(choice, address, f"{self._front} {choice.number}", request.deadline)

    def any_pod(self, headers: Mapping[bytes, bytes], hosts: Container[str] | None = None) -> str | None:
        """The address of a pod for a request that any will do for, in turn; None: there is none. `hosts` as above."""
        among = self._among(hosts)
        pods = [pod for pod in self._table.views(self._clock()) if among is None or pod.name in among]
        found = candidates(pods)
        if not found:
            return None
        self._turn += 1
        return _address(self.pods[pods[found[self._turn % len(found)]].name], headers)

    def _among(self, hosts: Container[str] | None) -> Container[str] | None:
        return None if hosts is None else {name for name, pod in self.pods.items() if pod.host in hosts}

    def waits_s(self, headers: Mapping[bytes, bytes]) -> float | None:
        """How long a request with these headers may wait for the first pod; None: there is one, or any will do."""
        if self.pods or not is_inference(headers):
            return None
        return max(0.0, self._request(headers).deadline - self._clock())

    def ended(self, pick: Pick, ending: Ending) -> Ending:
        """The request has its answer, or will not have one. Returns how it has ended."""
        now = self._clock()
        if ending == "cancelled" and now > pick.deadline + OVERDUE_S:
            ending = "failed"  # its client gave up, as the pod had neither answered nor refused it
        self._table.ended(pick.choice, ending, now)
        return ending

    def reporting(self, within_s: float) -> int:
        """Number of pods that have reported in the last `within_s` seconds."""
        return self._table.reporting(self._clock() - within_s)

    def oldest_report_s(self) -> float:
        """Age of the last report of the pod whose is the oldest, in seconds; 0 without any."""
        return max(self._table.report_ages(self._clock()), default=0.0)

    def avoided(self) -> int:
        """Number of pods that get no requests now, because they fail, are silent, or do not do what they report."""
        return sum(pod.ejected for pod in self._table.views(self._clock()))

    def _request(self, headers: Mapping[bytes, bytes]) -> Request:
        now = self._clock()
        self._requests += 1
        try:
            due = resolve(Arrival.of(headers, now, self._wall_clock()), self._policy)
        except BadHeaderError:  # the pod says what is wrong with it
            return Request(self._requests, now, now + self._policy.default_s, now)
        return Request(self._requests, now, due.deadline, due.sent, due.slo_class, floor=due.floor)


def ending_of(headers: Mapping[bytes, bytes], chosen: str, answered_by: str) -> Ending:
    """How a request ended, from the headers of its response.

    Args:
        chosen: the address of the chosen pod.
        answered_by: that of the pod that has answered; empty: the proxy itself.
    """
    status, grpc_status = headers.get(b":status", b""), headers.get(b"grpc-status", b"0")
    if b"x-sponge-elsewhere" in headers or status in REFUSED or grpc_status in GRPC_REFUSED:
        # Two pods that refuse one after the other are full, not broken. The proxy's own answer means that none was met.
        return "refused" if answered_by else "failed"
    if answered_by != chosen:
        return "refused"  # it was handed on, and the other pod has answered
    return "failed" if status.startswith(b"5") or grpc_status in GRPC_FAILED else "answered"


def is_inference(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these headers is for a model's answer."""
    path = headers.get(b":path", b"").decode("latin-1").partition("?")[0]
    if headers.get(b":method") != b"POST" or path.startswith(REPOSITORY):
        return False
    return path.endswith(INFERENCE) if is_grpc(headers) else True


def is_grpc(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these headers is a call over gRPC."""
    return headers.get(b"content-type", b"").startswith(GRPC)


def _address(pod: Pod, headers: Mapping[bytes, bytes]) -> str:
    return pod.grpc if is_grpc(headers) else pod.http
