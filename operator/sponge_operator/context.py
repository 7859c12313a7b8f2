"""What all services share, made once at the start and passed down."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sponge_operator.autoscale.decision_log import Journal
from sponge_operator.autoscale.recommender import ResizeBudget
from sponge_operator.clients.kube import Kube
from sponge_operator.clients.pods import PodCache
from sponge_operator.clients.server import ControlClient
from sponge_operator.metrics import Metrics
from sponge_operator.node.coordinator import Nodes
from sponge_operator.settings import OperatorSettings

__all__ = ["Context", "Events"]

log = logging.getLogger("sponge.operator")

EventType = Literal["Normal", "Warning"]


@dataclass(frozen=True, slots=True)
class Context:
    """The I/O, the shared state and the clocks. `clock` is monotonic, `wall` is epoch; both in seconds."""

    settings: OperatorSettings
    kube: Kube
    control: ControlClient
    pods: PodCache
    nodes: Nodes
    metrics: Metrics
    journal: Journal
    budget: ResizeBudget
    clock: Callable[[], float]
    wall: Callable[[], float]


@dataclass(slots=True)
class Events:
    """Kubernetes events of one service; the same reason for the same thing is not repeated for a while."""

    post: Callable[[EventType, str, str], None]  # type, reason, message
    clock: Callable[[], float]
    quiet_s: float = 300.0
    _last: dict[tuple[str, str], float] = field(default_factory=dict)

    def emit(self, kind: EventType, reason: str, message: str, about: str = "") -> None:
        """Posts the event unless one of that `reason` about the same thing was posted within `quiet_s`."""
        now, key = self.clock(), (reason, about)
        if now - self._last.get(key, float("-inf")) < self.quiet_s:
            return
        self._last[key] = now
        self.post(kind, reason, message)
