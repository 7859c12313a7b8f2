"""What one front knows of its pods: their reports, the requests it has sent to them, and how those ended.

The front tells the table what happens, and asks it for a pod. Time is an argument, in seconds on the front's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, RoutingRule, Sent
from sponge_core.routing.pod_load import PodLoad

__all__ = ["Choice", "Ending", "PodTable"]

Ending = Literal["answered", "refused", "failed", "cancelled"]
"""How a request ended at a pod: with an answer, in time or late; refused by its admission; without a valid answer; or
without its client."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The pod that a request goes to, and the number of the request there, which it carries with the front's name."""

    pod: str
    number: int


@dataclass(slots=True)
class _Pod:
    load: PodLoad | None = None
    received_at: float = 0.0
    last_number: int = 0
    outstanding: dict[int, Sent] = field(default_factory=dict)  # by number, the oldest first


class PodTable:
    """The pods of one service, as the front `front` sees them.

    Args:
        front: the name of the front; unique among the fronts of a service, and new after a restart.
        rule: chooses the pods.
    """

    def __init__(self, front: str, rule: RoutingRule) -> None:
        self._front = front
        self._rule = rule
        self._pods: dict[str, _Pod] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Sets which pods there are: forgets the others, and knows nothing yet of new ones."""
        self._pods = {name: self._pods.get(name) or _Pod() for name in names}

    def reported(self, name: str, load: PodLoad, now: float) -> None:
        """Takes in a pod's report; one of a pod that is gone changes nothing."""
        pod = self._pods.get(name)
        if pod is not None:
            pod.load, pod.received_at = load, now

    def choose(self, now: float, request: Request) -> Choice | None:
        """Chooses a pod for a request, and counts it as sent there; None if there is no pod."""
        pods = self.views()
        index = self._rule.choose(now, request, pods)
        if index is None:
            return None
        name = pods[index].name
        pod = self._pods[name]
        pod.last_number += 1
        pod.outstanding[pod.last_number] = Sent(pod.last_number, now, request.deadline)
        return Choice(name, pod.last_number)

    def ended(self, choice: Choice, ending: Ending, now: float) -> None:  # noqa: ARG002
        """A request has ended. Nothing changes if it had ended before, or if its pod is gone."""
        pod = self._pods.get(choice.pod)
        if pod is not None:
            pod.outstanding.pop(choice.number, None)

    def views(self) -> list[PodView]:
        """The pods as a rule sees them, in the order of `keep`."""
        return [self._view(name, pod) for name, pod in self._pods.items()]

    def _view(self, name: str, pod: _Pod) -> PodView:
        included = pod.load.received.get(self._front, 0) if pod.load is not None else 0
        sent = [each for each in pod.outstanding.values() if each.number > included]
        return PodView(name, pod.load, pod.received_at, sent, len(pod.outstanding))
