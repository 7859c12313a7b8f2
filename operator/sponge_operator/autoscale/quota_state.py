"""The present state of one CPU quota, read from the pod as the API server sends it. Pure.

A resize is complete when the actual size (status.containerStatuses[].resources) equals the spec's: the conditions alone
are wrong after a kubelet restart. What to do about a state is in `resize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sponge_core.quantities import parse_cpu_milli
from sponge_operator.resources.containers import container_limit, container_spec, container_status

__all__ = [
    "Deferred",
    "Failed",
    "Idle",
    "InFlight",
    "Infeasible",
    "NotResizable",
    "Observed",
    "actual_milli",
    "least_milli",
    "observe",
]


@dataclass(frozen=True, slots=True)
class Idle:
    """No resize is under way; the pod has what its spec says."""

    milli: int


@dataclass(frozen=True, slots=True)
class InFlight:
    """The spec asks for another size than the container has.

    Attributes:
        overlooked: the kubelet has seen this spec, and reports no resize.
    """

    spec_milli: int
    actual_milli: int
    overlooked: bool = False


@dataclass(frozen=True, slots=True)
class _Refused:
    """A resize that was not carried out.

    Attributes:
        message: the kubelet's.
        node: of the pod; empty if not known.
    """

    spec_milli: int
    actual_milli: int
    message: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Deferred(_Refused):
    """The node has no room now."""


@dataclass(frozen=True, slots=True)
class Infeasible(_Refused):
    """The node can never grant the size (too small, or a static CPU manager)."""


@dataclass(frozen=True, slots=True)
class Failed(_Refused):
    """The kubelet reports an error."""


@dataclass(frozen=True, slots=True)
class NotResizable:
    """This pod must not be resized, or not yet; `reason` is machine-readable."""

    reason: Literal["NotRunning", "Terminating", "NoContainer", "RestartPolicy", "NoLimit"]
    message: str


Observed = Idle | InFlight | Deferred | Infeasible | Failed | NotResizable


def observe(pod: Mapping[str, Any], container: str, quota_milli: int | None = None) -> Observed:
    """The state of a pod's resize, from its spec and status.

    Args:
        pod: as the API server sends it.
        container: name of the container to resize.
        quota_milli: the CPU quota that the container itself reads, if known; it changes before the status does.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return NotResizable("Terminating", "the pod is being deleted")
    spec = container_spec(pod, container)
    if spec is None:
        return NotResizable("NoContainer", f"the pod has no container {container!r}")
    if any(p["resourceName"] == "cpu" and p["restartPolicy"] != "NotRequired" for p in spec.get("resizePolicy") or ()):
        return NotResizable("RestartPolicy", f"resizing CPU would restart container {container!r}; set NotRequired")
    limit = container_limit(spec, "cpu")
    if limit is None:
        return NotResizable("NoLimit", f"container {container!r} has no CPU limit")
    status, own = pod.get("status") or {}, container_status(pod, container)
    if status.get("phase") != "Running" or own is None or "running" not in (own.get("state") or {}):
        return NotResizable("NotRunning", "the container is not running yet")

    wanted, node = parse_cpu_milli(limit), pod["spec"].get("nodeName") or ""
    reported = container_limit(own, "cpu")
    actual = parse_cpu_milli(reported) if reported is not None else wanted
    conditions = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    pending, progress = conditions.get("PodResizePending"), conditions.get("PodResizeInProgress")
    # Conditions of an earlier generation belong to an earlier resize.
    generation = pod["metadata"].get("generation", 0)
    # If the spec equals what the container has, a refused resize was taken back and the kubelet has not seen that yet.
    if pending is not None and wanted != actual and pending.get("observedGeneration", generation) >= generation:
        message = pending.get("message") or ""
        if pending.get("reason") == "Infeasible":
            return Infeasible(wanted, actual, message, node)
        return Deferred(wanted, actual, message, node)
    if quota_milli is not None and quota_milli == wanted:
        return Idle(wanted)
    failed = progress is not None and progress.get("reason") == "Error"
    if progress is not None and failed and progress.get("observedGeneration", generation) >= generation:
        return Failed(wanted, actual, progress.get("message") or "", node)
    unseen = status.get("observedGeneration", generation) < generation
    if progress is not None or unseen or actual != wanted:
        return InFlight(wanted, actual, overlooked=progress is None and not unseen)
    return Idle(wanted)


def actual_milli(observed: Observed) -> int | None:
    """The CPU in force; None where no resize is possible."""
    match observed:
        case Idle(milli):
            return milli
        case NotResizable():
            return None
        case _:
            return observed.actual_milli


def least_milli(observed: Observed) -> int | None:
    """The smaller of the size in force and the one under way; None where no resize is possible."""
    if isinstance(observed, Idle | NotResizable):
        return actual_milli(observed)
    return min(observed.actual_milli, observed.spec_milli)
