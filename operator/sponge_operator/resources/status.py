"""Builds the status of a SpongeService from the states of its pods. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sponge_core.errors import SpongeError
from sponge_core.quantities import cores_text, parse_time_s
from sponge_operator.autoscale.decision_log import Entry
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.conditions import build_conditions, percent_text, ready_fronts, ready_pods, rfc3339
from sponge_operator.resources.status_input import StatusInput

__all__ = ["broken_status", "build_status", "cold_start_of", "substance"]

DECISIONS_KEPT = 5
FRONTIER_KEPT = 16


def build_status(known: StatusInput, before: Mapping[str, Any]) -> dict[str, Any]:
    """The whole status.

    Args:
        before: the present status; transition times of unchanged conditions are kept.
    """
    service, pods = known.service, known.pods
    driven = [state for state in pods if state.reachable]
    actuated = [state.actuated_milli for state in pods if state.actuated_milli is not None]
    desired = [state.recommendation.cores_milli for state in driven if state.recommendation is not None]
    snapshots = [state.snapshot for state in driven if state.snapshot is not None]
    latencies = [snapshot.latency_p99_s for snapshot in snapshots if snapshot.latency_p99_s is not None]
    return {
        "observedGeneration": service.generation,
        "cores": cores_text(sum(actuated)) if actuated else None,
        "desiredCores": cores_text(sum(desired)) if desired else None,
        "batch": max((snapshot.batch_cap for snapshot in snapshots), default=None),
        "replicas": ready_pods(known),
        "serving": f"{ready_pods(known)}/{known.wanted}",
        "scaling": _scaling(known, before.get("scaling") or {}),
        "front": _front(known),
        "attainment": percent_text(known.attainment),
        "p99": f"{max(latencies) * 1000:.0f}ms" if latencies else None,
        "pods": [_pod(state) for state in pods],
        "lastDecision": _last_decision(pods) or before.get("lastDecision"),
        "lastDecisions": _last_decisions(pods, before.get("lastDecisions") or ()),
        "conditions": build_conditions(known, before.get("conditions") or ()),
    }


def broken_status(before: Mapping[str, Any], reason: str, message: str, now: float, generation: int) -> dict[str, Any]:
    """The status before, except that it cannot be told whether the service is ready, and why."""
    conditions = [dict(each) for each in before.get("conditions") or () if each["type"] not in ("Ready", "Synced")]
    for kind, status in (("Ready", "Unknown"), ("Synced", "False")):
        told = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions.append({**told, "lastTransitionTime": rfc3339(now), "observedGeneration": generation})
    return {**before, "observedGeneration": generation, "conditions": conditions}


def substance(status: Mapping[str, Any]) -> Any:
    """The part of a status whose changes are written at once; other changes wait for the interval."""
    conditions = [(c["type"], c["status"], c.get("reason")) for c in status.get("conditions") or ()]
    return status.get("observedGeneration"), status.get("serving"), conditions


def _pod(state: PodState) -> dict[str, Any]:
    recommendation = state.recommendation
    pod: dict[str, Any] = {"name": state.name, "reason": _reason(state)}
    if recommendation is not None:
        pod["cores"] = cores_text(recommendation.cores_milli)
    if state.actuated_milli is not None:
        pod["actuatedCores"] = cores_text(state.actuated_milli)
    if state.snapshot is not None:
        pod["batch"] = state.snapshot.batch_cap
    if state.source is not None and state.source.serving is not None:
        pod["source"] = state.source.serving
    return pod


def _reason(state: PodState) -> str:
    if state.blocked is not None:
        return state.blocked.reason
    if not state.reachable:
        return "NoState" if state.obstacle is None else state.obstacle.reason
    return state.recommendation.reason if state.recommendation is not None else "Loading"


def _scaling(known: StatusInput, before: Mapping[str, Any]) -> dict[str, Any] | None:
    """The number of pods; None where it is fixed."""
    seen, last = known.scaling, known.last_scaling
    if known.service.spec.replicas.is_fixed:
        return None
    change = before.get("lastChange")
    if last is not None:
        change = {"time": rfc3339(last.time), "from": last.before, "to": last.after, "reason": last.reason}
    told = {
        "wanted": known.wanted if seen is None else seen.wanted,
        "present": len(known.pods),
        "serving": ready_pods(known),
        "load": None if seen is None or seen.load_cores is None else f"{seen.load_cores:.3g}",
        "coldStart": before.get("coldStart") if seen is None else f"{seen.cold_start_s:.3g}s",
        "lastChange": change,
    }
    return {name: value for name, value in told.items() if value is not None}


def _front(known: StatusInput) -> dict[str, int] | None:
    front = known.service.spec.front
    return None if front is None else {"wanted": front.replicas, "ready": ready_fronts(known)}


def cold_start_of(status: Mapping[str, Any]) -> float | None:
    """The cold start in seconds that a status tells; None if it tells none."""
    try:
        return parse_time_s(status["scaling"]["coldStart"])
    except (KeyError, TypeError, SpongeError):
        return None


def _last_decision(pods: Sequence[PodState]) -> dict[str, Any] | None:
    made = [(state.last.time, state.name, state.last) for state in pods if state.last is not None]
    if not made:
        return None
    time, pod, last = max(made, key=lambda item: item[0])
    return {
        "time": rfc3339(time),
        "pod": pod,
        "from": cores_text(last.from_milli),
        "to": cores_text(last.to_milli),
        "batch": last.batch_cap,
        "reason": last.reason,
        "applied": last.applied,
    }


def _last_decisions(pods: Sequence[PodState], before: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The newest decisions of all pods with their inputs; those of pods that are gone stay until newer ones come."""
    made = [_explained(entry) for state in pods for entry in state.recent]
    known = {(one["pod"], one["time"], one["from"], one["to"]): one for one in (*before, *made)}
    return sorted(known.values(), key=lambda one: str(one["time"]))[-DECISIONS_KEPT:]


def _explained(entry: Entry) -> dict[str, Any]:
    return {
        "time": rfc3339(entry.time),
        "pod": entry.pod,
        "from": cores_text(entry.from_milli),
        "to": cores_text(entry.to_milli),
        "batch": entry.batch_cap,
        "reason": entry.reason,
        "outcome": entry.outcome,
        "urgent": entry.urgent,
        "feasible": entry.feasible,
        "queue": entry.queue_length,
        "arrivals": f"{entry.arrival_rate_rps:.3g}/s",
        "frontier": " ".join(f"{cores_text(milli)}:{misses:.3g}" for milli, misses in entry.frontier[:FRONTIER_KEPT]),
    }
