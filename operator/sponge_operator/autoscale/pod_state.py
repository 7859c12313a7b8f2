"""What the operator knows of one pod: its controller writes it, the status is built from it. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sponge_core.control_api import SourceReport, StateSnapshot
from sponge_core.errors import SpongeError
from sponge_core.planning.decider import Recommendation
from sponge_core.quantities import parse_cpu_milli
from sponge_operator.autoscale.decision_log import Entry
from sponge_operator.autoscale.resize import Blocked
from sponge_operator.autoscale.target import Starting
from sponge_operator.resources.containers import container_limit, container_spec, container_status
from sponge_operator.resources.manifests import CONTAINER, STARTUP_ANNOTATION
from sponge_operator.resources.obstacles import Obstacle

__all__ = ["LastDecision", "PodState", "is_in_service", "node_of", "starting", "startup_of"]


@dataclass(frozen=True, slots=True)
class LastDecision:
    """The newest decision of a pod that changed something, or would have."""

    time: float  # epoch seconds
    from_milli: int
    to_milli: int
    batch_cap: int
    reason: str
    applied: bool


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod; None where nothing is known yet.

    Attributes:
        reachable: the server answered the newest poll.
        trouble: why it did not; empty if it did.
        seen_at: monotonic seconds of the newest snapshot.
        recommendation: the newest one, after the node's allocation.
        actuated_milli: the CPU in force.
        most_milli: the largest size that it can have now; None: nothing is known to keep it from `cpu.max`.
        node: the name of its node; empty while it has none.
        in_service: the pod's condition Ready, so that the Service sends requests to it.
        starting: its sizes while its container is not ready.
        obstacle: what Kubernetes says keeps the pod from being Ready.
        recent: the newest decisions with their inputs, oldest first.
        source_key: of the source that its container starts with; None for a pod of an earlier operator.
        source: what the server last said of the model's sources.
        fixed_source: why it cannot load another source while it runs; empty if it can, as far as is known.
    """

    name: str
    reachable: bool = False
    trouble: str = "the server has not answered yet"
    seen_at: float | None = None
    snapshot: StateSnapshot | None = None
    recommendation: Recommendation | None = None
    actuated_milli: int | None = None
    most_milli: int | None = None
    node: str = ""
    in_flight: bool = False
    in_service: bool = False
    obstacle: Obstacle | None = None
    blocked: Blocked | None = None
    last: LastDecision | None = None
    starting: Starting | None = None
    recent: tuple[Entry, ...] = ()
    source_key: str | None = None
    source: SourceReport | None = None
    fixed_source: str = ""

    @property
    def ready(self) -> bool:
        """The server accepts requests, and the Service sends some."""
        return (
            self.in_service
            and self.reachable
            and self.snapshot is not None
            and self.snapshot.ready
            and not self.snapshot.draining
        )


def is_in_service(pod: Mapping[str, Any]) -> bool:
    """Whether a pod, as the API server sends it, is Ready, so that the Service sends requests to it."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def node_of(pod: Mapping[str, Any]) -> str:
    """The name of the node that has taken a pod; empty if none has."""
    return str(pod["spec"].get("nodeName") or "")


def startup_of(pod: Mapping[str, Any]) -> int | None:
    """The size that a pod starts with, as the operator noted it when it made the pod; None for a foreign pod."""
    startup = (pod["metadata"].get("annotations") or {}).get(STARTUP_ANNOTATION)
    try:
        return None if startup is None else parse_cpu_milli(startup)
    except SpongeError:
        return None  # somebody has edited the annotation


def starting(pod: Mapping[str, Any]) -> Starting | None:
    """The sizes of a pod, as the API server sends it, whose server is not ready; None once it is."""
    startup, status = startup_of(pod), container_status(pod, CONTAINER)
    limit = container_limit(container_spec(pod, CONTAINER), "cpu")
    if startup is None or limit is None or status is None or status.get("ready"):
        return None
    has = limit  # a container that does not run will be started with what the spec says
    if "running" in (status.get("state") or {}):
        has = container_limit(status, "cpu") or limit
    return Starting(parse_cpu_milli(has), startup)
