"""What a simulated service of several pods consists of: pods, the fronts before them, the network, and what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sponge_core.dispatch.decision import Launch
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.routing.registry import RuleName
from sponge_simulator.scaling.interface import Service

__all__ = ["FAULTS", "Fault", "FaultKind", "Fronts", "Network", "Site"]

FaultKind = Literal["pod dies", "pod hangs", "pod lies", "pod errs", "front dies"]

FAULTS: Final[dict[FaultKind, str]] = {
    "pod dies": "it refuses connections; what it had is lost",
    "pod hangs": "it takes connections and answers nothing, and reports nothing",
    "pod lies": "it reports that it is idle, and every batch takes four times as long",
    "pod errs": "it answers every request at once, with an error, and reports that it is idle",
    "front dies": "it refuses connections; the answers to what it has passed on are lost",
}


class Fault(NamedTuple):
    """The first pod or front has a fault from `from_s` to `until_s`, and is then started anew.

    Attributes:
        noticed_s: seconds after which the cluster takes it out of the Service; for a pod that goes on reporting, never.
    """

    kind: FaultKind
    from_s: float
    until_s: float
    noticed_s: float = 5.0

    @property
    def noticed(self) -> bool:
        """Whether the cluster notices it before it is over."""
        return self.from_s + self.noticed_s < self.until_s


class Network(NamedTuple):
    """Times of the network inside the cluster, in seconds.

    Attributes:
        hop_s: from one process to another.
        report_every_s: between two reports of a pod.
        report_delay_s: from a report to the fronts that read it.
    """

    hop_s: float = 0.001
    report_every_s: float = 0.05
    report_delay_s: float = 0.002


@dataclass(frozen=True, slots=True)
class Fronts:
    """The fronts of a service.

    Attributes:
        rule: chooses the pods; None: there is no front, and kube-proxy sends each request to any pod of the Service.
        count: number of fronts; clients spread evenly over them, and each knows only what it has sent itself.
        retries: how often a request that has failed is sent to another pod.
        hand_over: a request that its pod could not meet by its own queue on arrival goes to any other one, once.
        second_try: a request that its pod sheds for others, however late, goes to any other one, once.
        at_header: choose when the header of a request has come, not once its body has.
        steal: a pod without work takes a batch out of the longest queue of another one.
    """

    rule: RuleName | None
    count: int = 1
    retries: int = 2
    hand_over: bool = False
    second_try: bool = False
    at_header: bool = False
    steal: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What is behind the fronts.

    Attributes:
        service: each pod has its largest size.
        pods: number of pods.
        dispatch: makes the dispatch policy of each pod.
        takes_s: draws the true time of a batch at full speed, in seconds.
        by_periods: enforce the quota of a pod as the kernel does, in periods of 100 ms. Once it is used up, a pod does
            not receive and report either until the next one.
    """

    service: Service
    pods: int
    dispatch: Callable[[], Dispatcher]
    takes_s: Callable[[Launch], float]
    network: Network
    faults: tuple[Fault, ...] = ()
    by_periods: bool = False
