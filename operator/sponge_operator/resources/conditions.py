"""The conditions of a SpongeService: one function for each, from what is known to status, reason and message. Pure.

`Ready` means the same as for KServe: the newest generation answers requests with all of its pods. `Available` is True
while any pod answers, of whatever generation, like `PredictorReady`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from sponge_core.quantities import cores_text
from sponge_core.resource_names import PAUSE_ANNOTATION, WAKE_ANNOTATION
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.front_manifests import FRONT_LABEL, front_name
from sponge_operator.resources.obstacles import Obstacle, failure_of, is_rolled_out, rollout_of
from sponge_operator.resources.status_input import StatusInput

__all__ = ["build_conditions", "front_ready", "percent_text", "ready_fronts", "ready_pods", "rfc3339"]

Tri = Literal["True", "False", "Unknown"]
Verdict = tuple[Tri, str, str]  # status, reason, message


def build_conditions(known: StatusInput, before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All conditions.

    Args:
        before: the present ones; transition times of unchanged conditions are kept.
    """
    verdicts: dict[str, Verdict] = {
        "Ready": _ready(known),
        "Available": _available(known),
        "Synced": _synced(known),
        "SourceLive": _source_live(known),
        "ProfileReady": _profile_ready(known),
        "Planning": _planning(known),
        "Resizing": _resizing(known),
        "ResizeBlocked": _resize_blocked(known),
        "SLOAttained": _slo_attained(known),
        "Conflict": _conflict(known),
        "Scaling": _scaling(known),
        "NodeFull": _node_full(known),
        "FrontReady": front_ready(known),
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
                "lastTransitionTime": kept or rfc3339(known.now),
                "observedGeneration": known.service.generation,
            }
        )
    return conditions


def ready_pods(known: StatusInput) -> int:
    """How many pods accept requests, of whatever generation."""
    if known.service.spec.mode == "Off":
        return sum(state.in_service for state in known.pods)
    return sum(state.ready for state in known.pods)


def ready_fronts(known: StatusInput) -> int:
    """How many fronts take requests."""
    return 0 if known.front is None else (known.front.get("status") or {}).get("readyReplicas", 0)


def percent_text(percent: float | None) -> str | None:
    # Rounded down, so that 99.996 is not shown as 100.
    return None if percent is None else f"{math.floor(percent * 100) / 100:g}"


def rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ready(known: StatusInput) -> Verdict:
    wanted, ready = known.wanted, ready_pods(known)
    # Pods that were added for the load are not needed to be ready.
    enough = min(wanted, known.service.spec.replicas.at_first)
    if known.trouble is not None and not known.is_current:
        serving = f"; {ready} pods of an earlier generation accept requests" if ready else ""
        return "False", known.trouble.reason, f"{known.trouble.message}{serving}"
    rolled_out = known.deployment is not None and is_rolled_out(known.deployment, enough)
    if wanted == 0 and rolled_out:
        return "True", "ScaledToZero", f"no pod runs; the annotation {WAKE_ANNOTATION} with the time asks for one"
    if ready >= enough and rolled_out and known.source_change is not None:
        return "False", known.source_change.reason, known.source_change.message
    if ready >= enough and rolled_out:
        return "True", "PodsReady", f"{ready} of {wanted} pods accept requests"
    if known.secret_trouble is not None:
        return "False", known.secret_trouble.reason, known.secret_trouble.message
    found = list(_obstacles(known, wanted))
    worst = next((obstacle for obstacle in found if obstacle.severe), found[0])
    return "False", worst.reason, f"{ready} of {wanted} pods accept requests; {worst.message}"


def _obstacles(known: StatusInput, wanted: int) -> Iterator[Obstacle]:
    """What keeps the newest generation from serving; at least one."""
    for state in known.pods:
        if not _serves(known, state):
            found = state.obstacle or _of_server(state)
            yield Obstacle(found.reason, f"{state.name}: {found.message}", found.severe)
    deployment = known.deployment
    if deployment is not None and (failure := failure_of(deployment)) is not None:
        yield failure
    if not known.pods:
        yield Obstacle(
            "NoPods", f"no pod exists yet; run kubectl describe deployment {known.service.name}", severe=False
        )
    if deployment is not None:
        yield rollout_of(deployment, wanted)


def _serves(known: StatusInput, state: PodState) -> bool:
    return state.in_service if known.service.spec.mode == "Off" else state.ready


def _of_server(state: PodState) -> Obstacle:
    if state.snapshot is not None and state.snapshot.draining:
        return Obstacle("Draining", "the server takes no new requests", severe=False)
    if not state.reachable:
        return Obstacle("NoState", state.trouble, severe=state.in_service)
    return Obstacle("Loading", "the model is loading", severe=False)


def _available(known: StatusInput) -> Verdict:
    ready = ready_pods(known)
    if ready:
        return "True", "PodsServe", f"{ready} pods accept requests"
    return "False", "NoPodServes", "no pod accepts requests"


def _synced(known: StatusInput) -> Verdict:
    if known.trouble is not None:
        return "False", known.trouble.reason, known.trouble.message
    return "True", "Applied", "Deployment, Service, Secret and ConfigMap are as the spec has them"


def _source_live(known: StatusInput) -> Verdict:
    source = known.service.spec.model.source
    if known.source_change is not None:
        return "False", known.source_change.reason, known.source_change.message
    if not ready_pods(known):
        return "Unknown", "NoPods", "no pod accepts requests"
    if known.deployment is None or not is_rolled_out(known.deployment, 0):
        return "False", "RollingOut", f"pods are replaced until every one serves {source}"
    return "True", "Live", f"every pod that accepts requests serves {source}"


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
    if known.service.paused and known.service.pause != "true":
        text = f"the annotation {PAUSE_ANNOTATION} has the value {known.service.pause!r}"
        return "False", "PauseInvalid", f"{text}; write true, grow or shrink; until then, sizes do not change"
    if known.service.paused:
        message = "the service is paused by its annotation; sizes do not change"
        return "False", "Paused", f"{message}{_slow_starts(known)}"
    if known.conflict is not None:
        return "False", "Conflict", f"sizes do not change while another autoscaler acts; {known.conflict}"
    if known.unable is not None and spec.mode == "Auto":
        return "False", *known.unable
    # A server that starts has never answered; the others are planned meanwhile.
    silent = [state for state in known.pods if not state.reachable and (state.seen_at is not None or state.in_service)]
    kept = "".join(f"; {state.name} keeps its size, because its server does not answer" for state in silent)
    if silent and not any(state.reachable for state in known.pods):
        why = f"{silent[0].name}: {silent[0].trouble}"
        return "False", "StaleState", f"sizes do not change while no server answers; {why}"
    if spec.mode == "Recommend":
        return "True", "Recommend", f"sizes are recommended, but not changed{kept}{_slow_starts(known)}"
    match known.service.paused_direction:
        case "grow":
            text = "sizes follow the deadlines; the service's annotation lets none grow"
            return "True", "GrowPaused", f"{text}{kept}{_slow_starts(known)}"
        case "shrink":
            text = "sizes follow the deadlines; the service's annotation lets none shrink"
            return "True", "ShrinkPaused", f"{text}{kept}"
        case _:
            return "True", "Auto", f"sizes follow the deadlines{kept}"


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
    text = f"{percent_text(percent)} % of requests were in time in the last minute; the target is {target:g} %"
    return ("True", "Attained", text) if percent >= target else ("False", "Missed", text)


def _conflict(known: StatusInput) -> Verdict:
    if known.conflict is not None:
        return "True", "OtherAutoscaler", known.conflict
    return "False", "NoConflict", "no other autoscaler scales these pods"


def _scaling(known: StatusInput) -> Verdict:
    service, seen, pods = known.service, known.scaling, f"{ready_pods(known)} of {known.wanted} pods accept requests"
    if service.spec.replicas.is_fixed:
        return "False", "Fixed", f"replicas.min and replicas.max are {known.wanted}"
    if known.conflict is not None:
        return "False", "Conflict", "the number of pods is left to the other autoscaler"
    if service.spec.mode == "Off" or service.paused or seen is None:
        return "False", "NotDriven", "the number of pods stays, because nothing is decided; see Planning"
    if known.wanted == 0:
        return "True", "Zero", f"no request came for {service.spec.idle.remove_after or 0:g} s"
    if seen.reason == "woken":
        return "True", "Starting", f"somebody waits for a pod; {pods}"
    if seen.stale or seen.load_cores is None:
        silent = ", ".join(seen.stale) or "every pod"
        return "False", "StaleState", f"the number of pods stays while the load is not known; no state of {silent}"
    load = f"the load takes {seen.load_cores:.3g} cores, and the pods may have {seen.has_cores:.3g}; {pods}"
    if service.spec.mode == "Recommend":
        return "False", "Recommend", f"{seen.wanted} pods are recommended; {load}"
    if seen.reason == "at-max":
        return "True", "AtMax", f"the load needs more than replicas.max; {load}"
    if seen.lost:
        return "True", "PodsLost", f"{seen.lost} pods that served do not any more; {load}"
    if seen.starting:
        return "True", "Starting", load
    return "True", "Settled", load


def _node_full(known: StatusInput) -> Verdict:
    full = known.full_nodes
    if not full:
        return "False", "Room", "no pod lacks cores for want of room on its node"
    told = "; ".join(f"{node or 'no node'}: {state.name} lacks cores" for node, state in sorted(full.items()))
    replicas = known.service.spec.replicas
    relief = "raise replicas.max" if known.wanted >= replicas.max else "another pod follows where the load needs it"
    return "True", "NodeFull", f"{told}; {relief}"


def front_ready(known: StatusInput) -> Verdict:
    """Whether as many fronts take requests as the spec has."""
    front, deployment = known.service.spec.front, known.front
    if front is None:
        return "False", "NoFront", "the spec has no front"
    ready = ready_fronts(known)
    told = f"{ready} of {front.replicas} fronts take requests"
    if known.front_trouble is not None:
        return "False", known.front_trouble.reason, f"{told}; {known.front_trouble.message}"
    if deployment is None:
        return "False", "NoPods", f"{told}; the Deployment {front_name(known.service)!r} is being made"
    is_newest, secret = is_rolled_out(deployment, front.replicas), known.front_secret_trouble
    if is_newest and ready >= front.replicas:
        kept = "" if secret is None else f"; they go on with what they have of a Secret, as {secret.message}"
        return "True", "FrontsReady", f"{told}{kept}"
    if secret is not None:
        return "False", secret.reason, f"{told}; {secret.message}"
    found = failure_of(deployment) or (None if is_newest else rollout_of(deployment, front.replicas))
    if found is None:
        pods = f"kubectl describe pods -l {FRONT_LABEL}={known.service.name}"
        return "False", "FrontsNotReady", f"{told}; {pods} says why"
    return "False", found.reason, f"{told}; {found.message}"
