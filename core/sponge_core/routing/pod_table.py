"""What one front knows of its pods: their reports, the requests it has sent to them, and how those ended.

The front tells the table what happens, and asks it for a pod. Time is an argument, in seconds on the front's clock.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, RoutingRule, Sent
from sponge_core.routing.pod_health import PodHealth
from sponge_core.routing.pod_load import PodLoad

__all__ = ["Choice", "Ending", "PodTable"]

Ending = Literal["answered", "refused", "failed", "cancelled"]
"""How a request ended at a pod: with an answer, in time or late; refused by its admission; without a valid answer; or
without its client."""

SILENT_S: Final = 1.5
"""A pod that neither reports nor answers for so long, although a request waits there, is avoided until it does."""

OVERDUE_S: Final = 0.5
"""A request without any answer so long after its deadline has failed."""

LAG_KEPT_S: Final = 5.0
"""Time constant in which the age of reports is forgotten, where nothing shows it any more."""

HOPS_S: Final = 0.005
"""An answer comes this much later to the front than the pod has sent it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The pod that a request goes to, and the number of the request there, which it carries with the front's name."""

    pod: str
    number: int


@dataclass(slots=True)
class _Pod:
    load: PodLoad | None = None
    heard_at: float = 0.0  # of the last report or answer
    reported_at: float = 0.0
    lag_s: float = 0.0  # how old reports are when they come, at least
    last_number: int = 0
    outstanding: dict[int, Sent] = field(default_factory=dict)  # by number, the oldest first
    health: PodHealth = field(default_factory=PodHealth)


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
        if pod is None:
            return
        received = load.received.get(self._front, 0)
        newer = [sent.at for sent in pod.outstanding.values() if sent.number > received]
        # It was made before the first request was sent that it does not include.
        kept = math.exp((pod.reported_at - now) / LAG_KEPT_S)
        pod.lag_s = max(now - newer[0] if newer else 0.0, pod.lag_s * kept)
        pod.load = load
        pod.reported_at = pod.heard_at = now

    def choose(self, now: float, request: Request, among: Container[str] | None = None) -> Choice | None:
        """Chooses a pod for a request, and counts it as sent there; None if there is no pod.

        Args:
            among: names of the pods to choose from; None: all.
        """
        pods = [pod for pod in self.views(now) if among is None or pod.name in among]
        index = self._rule.choose(now, request, pods)
        if index is None:
            return None
        name = pods[index].name
        pod = self._pods[name]
        if not pod.outstanding:
            pod.heard_at = max(pod.heard_at, now)  # until now there was nothing to hear
        pod.last_number += 1
        pod.outstanding[pod.last_number] = Sent(pod.last_number, now, request.deadline)
        return Choice(name, pod.last_number)

    def ended(self, choice: Choice, ending: Ending, now: float) -> None:
        """A request has ended. Nothing changes if it had ended before, or if its pod is gone."""
        pod = self._pods.get(choice.pod)
        sent = pod.outstanding.pop(choice.number, None) if pod is not None else None
        if pod is None or sent is None or ending == "cancelled":
            return
        if ending != "failed":
            pod.heard_at = now
        if ending == "answered" and now <= sent.deadline + HOPS_S:
            pod.health.in_time(now)
        else:
            pod.health.missed(now, self._others_miss(pod, now), failed=ending == "failed")

    def reporting(self, since: float) -> int:
        """Number of pods that have reported since that time."""
        return sum(1 for pod in self._pods.values() if pod.load is not None and pod.reported_at >= since)

    def report_ages(self, now: float) -> list[float]:
        """How old the last report of each pod is that has reported, in seconds since it came."""
        return [now - pod.reported_at for pod in self._pods.values() if pod.load is not None]

    def views(self, now: float) -> list[PodView]:
        """The pods as a rule sees them, in the order of `keep`."""
        for pod in self._pods.values():
            self._give_up(pod, now)
        return [self._view(name, pod, now) for name, pod in self._pods.items()]

    def _give_up(self, pod: _Pod, now: float) -> None:
        """A pod answers or refuses each request by its deadline; one that does neither has failed."""
        overdue = [sent.number for sent in pod.outstanding.values() if sent.deadline + OVERDUE_S < now]
        for number in overdue:
            del pod.outstanding[number]
            pod.health.missed(now, self._others_miss(pod, now), failed=True)

    def _others_miss(self, own: _Pod, now: float) -> float:
        in_time = missed = 0.0
        for pod in self._pods.values():
            if pod is not own:
                recent = pod.health.recent(now)
                in_time += recent[0]
                missed += recent[1]
        return missed / (in_time + missed) if missed else 0.0

    def _view(self, name: str, pod: _Pod, now: float) -> PodView:
        waits = len(pod.outstanding)
        silent = waits > 0 and now - pod.heard_at > SILENT_S
        ejected = silent or not pod.health.trusted(now, waits)
        load = pod.load
        if load is None:
            return PodView(name, None, 0.0, 0.0, tuple(pod.outstanding.values()), waits, ejected)
        received = load.received.get(self._front, 0)
        included: list[Sent] = []
        since: list[Sent] = []
        for sent in pod.outstanding.values():
            (since if sent.number > received else included).append(sent)
        made_at, lag_s = pod.reported_at - pod.lag_s, pod.lag_s
        if since:
            made_at, lag_s = min(made_at, since[0].at), max(lag_s, now - since[0].at)
        # The front waits for them, so the pod has them, whatever it says; the newest are the likeliest to wait.
        missing = max(0, len(included) - load.requests)
        hidden = included[len(included) - missing :]
        return PodView(name, load, made_at, lag_s, hidden + since, waits, ejected)
