"""What all services of one operator share; created once at startup and passed down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sponge_operator.autoscale.decision_log import DecisionLog
from sponge_operator.autoscale.resize_budget import ResizeBudget
from sponge_operator.clients.kube import Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.replica_sets import ReplicaSets
from sponge_operator.clients.rivals import Rivals
from sponge_operator.clients.server import ControlClient
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import NodeCoordinator
from sponge_operator.settings import OperatorSettings

__all__ = ["Context", "EventType", "Events"]

log = logging.getLogger("sponge.operator")

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Context:
    """Clients, shared state and clocks. `clock` is monotonic, `wall` is epoch time; both in seconds."""

    settings: OperatorSettings
    kube: Kube
    control: ControlClient
    pods: PodCache
    replica_sets: ReplicaSets
    rivals: Rivals
    nodes: NodeCoordinator
    metrics: Metrics
    decision_log: DecisionLog
    budget: ResizeBudget
    clock: Callable[[], float]
    wall: Callable[[], float]
    unable: Callable[[], tuple[str, str] | None] = lambda: None
    """Reason and message, if the cluster lets the operator change no size."""


@dataclass(slots=True)
class Events:
    """Kubernetes events of one service, without repetitions."""

    post: Callable[[EventType, str, str], None]  # type, reason, message
    clock: Callable[[], float]
    quiet_s: float = 300.0
    _last: dict[tuple[str, str], float] = field(default_factory=dict)

    def emit(self, kind: EventType, reason: str, message: str, about: str = "") -> None:
        """Posts the event unless one with this `reason` and `about` was posted within `quiet_s`."""
        now, key = self.clock(), (reason, about)
        if now - self._last.get(key, float("-inf")) < self.quiet_s:
            return
        # What has expired is forgotten, because messages may differ for ever.
        self._last = {each: at for each, at in self._last.items() if now - at < self.quiet_s}
        self._last[key] = now
        self.post(kind, reason, message)
