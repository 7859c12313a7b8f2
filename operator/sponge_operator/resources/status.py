"""Builds the status of a SpongeService from the states of its pods. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sponge_core.control_api import Outcome
from sponge_core.quantities import cores_text
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.model import SpongeService

__all__ = ["Attainment", "StatusInput", "build_status", "substance"]

ATTAINMENT_WINDOW_S = 60.0


class Attainment:
    """The share of requests in time over the last minute, for all pods of a service."""

    def __init__(self, window_s: float = ATTAINMENT_WINDOW_S) -> None:
        self._window_s = window_s
        self._pods: dict[str, deque[tuple[float, int, int]]] = {}  # time, in time, all; as counted by the pod

    def observe(self, now: float, pod: str, outcomes: Mapping[Outcome, int]) -> None:
        """Takes a pod's counts since its start; lower counts than before mean that it restarted."""
        samples = self._pods.setdefault(pod, deque())
        in_time, total = outcomes.get("in_time", 0), sum(outcomes.values())
        if samples and total < samples[-1][2]:
            samples.clear()
            samples.append((now, 0, 0))
        if not samples or samples[-1][1:] != (in_time, total):
            samples.append((now, in_time, total))
        # One sample from before the window stays as its starting point.
        while len(samples) > 1 and samples[1][0] <= now - self._window_s:
            samples.popleft()

    def forget(self, pod: str) -> None:
        """Removes a pod that is gone, with its requests."""
        self._pods.pop(pod, None)

    def percent(self) -> float | None:
        """Percent in time; None if no request ended within the window."""
        in_time = sum(samples[-1][1] - samples[0][1] for samples in self._pods.values())
        total = sum(samples[-1][2] - samples[0][2] for samples in self._pods.values())
        return 100.0 * in_time / total if total else None


@dataclass(frozen=True, slots=True)
class StatusInput:
    """Everything that a status is built from.

    Attributes:
        pods: states of the existing pods, by name.
        attainment: percent of requests in time; None without requests.
        trouble: reason and message if the children could not be applied, else None.
        missing_profile: message about a profile reference to something that does not exist.
        missing_secret: likewise about a Secret that the pods mount.
        conflict: message about another autoscaler of the same pods.
        now: epoch seconds.
    """

    service: SpongeService
    pods: Sequence[PodState]
    attainment: float | None
    trouble: tuple[str, str] | None
    missing_profile: str | None
    missing_secret: str | None
    conflict: str | None
    now: float


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
        "replicas": _ready_pods(known),
        "attainment": _percent_text(known.attainment),
        "p99": f"{max(latencies) * 1000:.0f}ms" if latencies else None,
        "pods": [_pod(state) for state in pods],
        "lastDecision": _last_decision(pods) or before.get("lastDecision"),
        "conditions": _conditions(known, before.get("conditions") or ()),
    }


def substance(status: Mapping[str, Any]) -> Any:
    """The part of a status whose changes are written at once; other changes wait for the interval."""
    conditions = [(c["type"], c["status"], c.get("reason")) for c in status.get("conditions") or ()]
    return status.get("observedGeneration"), status.get("replicas"), conditions


def _percent_text(percent: float | None) -> str | None:
    # Rounded down, so that 99.996 is not shown as 100.
    return None if percent is None else f"{math.floor(percent * 100) / 100:g}"


def _pod(state: PodState) -> dict[str, Any]:
    recommendation = state.recommendation
    pod: dict[str, Any] = {"name": state.name, "reason": _reason(state)}
    if recommendation is not None:
        pod["cores"] = cores_text(recommendation.cores_milli)
    if state.actuated_milli is not None:
        pod["actuatedCores"] = cores_text(state.actuated_milli)
    if state.snapshot is not None:
        pod["batch"] = state.snapshot.batch_cap
    return pod


def _reason(state: PodState) -> str:
    if state.blocked is not None:
        return state.blocked.reason
    if not state.reachable:
        return "NoState"
    return state.recommendation.reason if state.recommendation is not None else "Loading"


def _last_decision(pods: Sequence[PodState]) -> dict[str, Any] | None:
    made = [(state.last.time, state.name, state.last) for state in pods if state.last is not None]
    if not made:
        return None
    time, pod, last = max(made, key=lambda item: item[0])
    return {
        "time": _rfc3339(time),
        "pod": pod,
        "from": cores_text(last.from_milli),
        "to": cores_text(last.to_milli),
        "batch": last.batch_cap,
        "reason": last.reason,
        "applied": last.applied,
    }


def _rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- conditions ------------------------------------------------------------------------------------------------------

Tri = Literal["True", "False", "Unknown"]
Verdict = tuple[Tri, str, str]  # status, reason, message


def _conditions(known: StatusInput, before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    verdicts: dict[str, Verdict] = {
        "Ready": _ready(known),
        "ProfileReady": _profile_ready(known),
        "Planning": _planning(known),
        "Resizing": _resizing(known),
        "ResizeBlocked": _resize_blocked(known),
        "SLOAttained": _slo_attained(known),
        "Conflict": _conflict(known),
    }
    present = {condition["type"]: condition for condition in before}
    conditions = []
    for kind, (status, reason, message) in verdicts.items():
        last = present.get(kind)
        kept = last is not None and last.get("status") == status and last.get("lastTransitionTime")
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": kept or _rfc3339(known.now),
                "observedGeneration": known.service.generation,
            }
        )
    return conditions


def _ready_pods(known: StatusInput) -> int:
    if known.service.spec.mode == "Off":
        return sum(state.in_service for state in known.pods)
    return sum(state.ready for state in known.pods)


def _ready(known: StatusInput) -> Verdict:
    if known.trouble is not None:
        return "False", *known.trouble
    wanted = known.service.spec.replicas.max
    ready = _ready_pods(known)
    if ready >= wanted:
        return "True", "PodsReady", f"{ready} of {wanted} pods accept requests"
    if known.missing_secret is not None:
        return "False", "SecretMissing", known.missing_secret
    if not known.pods:
        return "False", "NoPods", f"no pod exists yet; run kubectl describe deployment {known.service.name}"
    waiting = next(state for state in known.pods if not state.ready)
    why = waiting.trouble or "the model is loading"
    return "False", "PodsNotReady", f"{ready} of {wanted} pods accept requests; {waiting.name}: {why}"


def _profile_ready(known: StatusInput) -> Verdict:
    if known.missing_profile is not None:
        return "False", "ReferenceMissing", known.missing_profile
    ready = [state for state in known.pods if state.ready and state.snapshot is not None]
    if not ready:
        return "Unknown", "NoPods", "no pod accepts requests"
    without = [s.name for s in ready if s.snapshot and not (s.snapshot.frontier or s.snapshot.profile)]
    if without:
        return "False", "NoFrontier", f"{', '.join(without)}: no latency profile yet, so the size does not change"
    for state in ready:
        if state.snapshot is not None and state.snapshot.profile_drifted:
            text = f"{state.name}: batches take {state.snapshot.prediction_ratio:.2g} times the time in the profile"
            return "False", "Drifted", f"{text}; measure it again with `sponge profile` on this kind of node"
    return "True", "ProfileKnown", "every server projects its load"


def _planning(known: StatusInput) -> Verdict:
    spec = known.service.spec
    if spec.mode == "Off":
        return "False", "Off", f"the mode is Off; set it to Auto or Recommend{_slow_starts(known)}"
    if known.service.paused:
        message = "the service is paused by its annotation; sizes do not change"
        return "False", "Paused", f"{message}{_slow_starts(known)}"
    lost = [state for state in known.pods if not state.reachable]
    if not known.pods or lost:
        why = f"{lost[0].name}: {lost[0].trouble}" if lost else "no pods"
        return "False", "StaleState", f"sizes do not change while a server does not answer; {why}"
    if spec.mode == "Recommend":
        return "True", "Recommend", "sizes are recommended, but not changed"
    return "True", "Auto", "sizes follow the deadlines"


def _slow_starts(known: StatusInput) -> str:
    """Names the pods that start at less than their startup size, because nobody may resize them."""
    slow = [state for state in known.pods if state.starting and state.starting.has_milli < state.starting.startup_milli]
    return "".join(
        f"; {state.name} starts at {cores_text(state.starting.has_milli)} cores instead of "
        f"{cores_text(state.starting.startup_milli)}, which may take long: resize it by hand"
        for state in slow
        if state.starting is not None
    )


def _resizing(known: StatusInput) -> Verdict:
    moving = [state.name for state in known.pods if state.in_flight]
    if moving:
        return "True", "InFlight", f"resize in progress: {', '.join(moving)}"
    return "False", "Settled", "every pod has its size"


def _resize_blocked(known: StatusInput) -> Verdict:
    for state in known.pods:
        if state.blocked is not None:
            return "True", state.blocked.reason, f"{state.name}: {state.blocked.message}"
    return "False", "NothingBlocked", "no resize is blocked"


def _slo_attained(known: StatusInput) -> Verdict:
    percent, target = known.attainment, known.service.spec.slo.target
    if percent is None:
        return "Unknown", "NoTraffic", "no requests in the last minute"
    text = f"{_percent_text(percent)} % of requests were in time in the last minute; the target is {target:g} %"
    return ("True", "Attained", text) if percent >= target else ("False", "Missed", text)


def _conflict(known: StatusInput) -> Verdict:
    if known.conflict is not None:
        return "True", "OtherAutoscaler", known.conflict
    return "False", "None", "no other autoscaler scales these pods"
