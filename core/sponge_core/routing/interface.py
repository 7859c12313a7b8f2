"""What a routing rule is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sponge_core.edf_queue import Request
from sponge_core.routing.pod_load import PodLoad

__all__ = ["PodView", "RoutingRule", "Sent", "candidates"]


class Sent(NamedTuple):
    """A request that a front has sent to a pod: its number there, when it was sent, and its deadline.

    Both times are seconds on the front's clock.
    """

    number: int
    at: float
    deadline: float


@dataclass(frozen=True, slots=True)
class PodView:
    """What one front knows of one pod.

    Attributes:
        name: unique among the front's pods.
        load: the pod's last report; None before the first.
        made_at: when that report was made, in seconds on the front's clock, as far as the front can tell.
        lag_s: how late its reports are, at least: they do not include what was sent so long ago.
        sent: the front's requests that the report does not account for and that have not ended, the oldest first.
        outstanding: number of the front's requests that have not ended; those in `sent` are among them.
        ejected: requests avoid it, as it failed, is silent, or does not do what it reports.
    """

    name: str
    load: PodLoad | None = None
    made_at: float = 0.0
    lag_s: float = 0.0
    sent: Sequence[Sent] = ()
    outstanding: int = 0
    ejected: bool = False

    @property
    def accepting(self) -> bool:
        """Whether it takes requests, as far as the front knows. A pod that has reported nothing may."""
        return self.load is None or self.load.accepting


class RoutingRule(Protocol):
    """Chooses a pod for each request. It may keep a state of its own, such as whose turn it is."""

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:
        """The index of a pod in `pods`; None if there is no pod.

        Args:
            now: seconds on the front's clock; the deadline of `request` is on the same one.
        """


def candidates(pods: Sequence[PodView]) -> list[int]:
    """The indices of the pods to choose from: those that accept requests and are not ejected, else the next best.

    A front that is wrong about its pods must still send a request somewhere, as a Service would.
    """
    accepting = [index for index, pod in enumerate(pods) if pod.accepting]
    trusted = [index for index in accepting if not pods[index].ejected]
    return trusted or accepting or list(range(len(pods)))
