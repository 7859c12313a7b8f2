"""How a changed `spec.model.source` reaches the pods of a service: in place, or by replacing them. Pure.

In place, one pod after the other loads the new source beside the former one, and the pod template stays as it is. Once
every pod serves the new source, containers that start get it, too. Where that cannot be, the template names another
entry of the ConfigMap, and the Deployment replaces the pods. What was done so far is in the Deployment, the ConfigMap
and the servers, so that an operator that starts goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.manifests import SOURCE_KEY_ANNOTATION, TEMPLATE_ANNOTATION
from sponge_operator.resources.model import SpongeService
from sponge_operator.resources.obstacles import Obstacle, has_one_template, is_observed
from sponge_operator.resources.source_entries import sources_of

__all__ = ["Rollout", "SourcePlan", "plan_source", "rollout_now"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a Deployment and its ConfigMap say of the source.

    Attributes:
        key: the entry that the newest pod template names.
        sources: by key; more than one while pods of an earlier template may start again.
        is_observed: what follows is of the newest Deployment.
        is_complete: all pods have the newest template.
        ready: how many pods are Ready.
        template: stands for the newest pod template.
    """

    key: str
    sources: Mapping[str, str]
    is_observed: bool
    is_complete: bool
    ready: int
    template: str


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What to do for the source now.

    Attributes:
        key: the entry that the pod template should name.
        sources: what containers that start should load, by key.
        load: name of the pod that should load the source of the spec beside its own; None: no pod.
        change: how far a change in place has come, or what keeps it; None: none is under way.
        rolls: why the pods are replaced from now on; empty if they are not.
    """

    key: str
    sources: Mapping[str, str]
    load: str | None = None
    change: Obstacle | None = None
    rolls: str = ""


def rollout_now(deployment: Mapping[str, Any] | None, config_map: Mapping[str, Any] | None) -> Rollout | None:
    """Reads both as the API server sends them; None without a Deployment that names an entry."""
    if deployment is None:
        return None
    annotations = deployment["metadata"].get("annotations") or {}
    if SOURCE_KEY_ANNOTATION not in annotations:
        return None
    return Rollout(
        annotations[SOURCE_KEY_ANNOTATION],
        sources_of(config_map),
        is_observed(deployment),
        has_one_template(deployment),
        (deployment.get("status") or {}).get("readyReplicas", 0),
        annotations.get(TEMPLATE_ANNOTATION, ""),
    )


def plan_source(
    service: SpongeService,
    now: Rollout | None,
    pods: Sequence[PodState],
    template: Callable[[str], str],
    *,
    patient: bool,
) -> SourcePlan:
    """The plan.

    Args:
        pods: those that are not on their way out, by name.
        template: what stands for the pod template of the newest spec, when it names this entry.
        patient: a server that does not answer is waited for.
    """
    wanted = service.spec.model.source
    if now is None:
        key = _another_key(service, "")
        return SourcePlan(key, {key: wanted})
    starts_with = now.sources.get(now.key, wanted)
    is_kept = starts_with == wanted  # containers that start load it
    if not (now.is_observed and now.is_complete):
        return _during_rollout(service, now, starts_with)
    kept = {now.key: starts_with}
    pods = [pod for pod in pods if pod.source_key == now.key]  # the others are on their way out
    serving = [pod for pod in pods if pod.in_service]
    late = [pod for pod in serving if not _serves(pod, wanted) and not (is_kept and pod.source is None)]
    if is_kept and not late:
        return SourcePlan(now.key, kept)
    if why := _why_not_in_place(service, now, serving, template):
        return _rolled(service, now, why)
    if no_room := next((told for pod in pods if (told := _no_room(pod, wanted))), ""):
        return _rolled(service, now, no_room)
    silent = next((pod.name for pod in late if pod.source is None or not pod.reachable), None)
    if not is_kept and (silent is not None or len(serving) < now.ready):
        if not patient:
            return _rolled(service, now, f"{silent or 'a pod'}: its server does not answer the operator")
        text = f"{silent or 'a pod'}: its server has not said yet which source it serves"
        return SourcePlan(now.key, kept, change=Obstacle("SourceUnknown", text, severe=False))
    if late:
        first = next((pod for pod in late if pod.source is not None and pod.source.loading is not None), late[0])
        return SourcePlan(now.key, kept, first.name, _progress(first, wanted, len(late), len(serving)))
    return SourcePlan(now.key, {now.key: wanted})


def _during_rollout(service: SpongeService, now: Rollout, starts_with: str) -> SourcePlan:
    """Pods of an earlier template may start again, so all entries are kept."""
    kept = {**now.sources, now.key: starts_with}
    if starts_with == service.spec.model.source:
        return SourcePlan(now.key, kept)
    if now.is_observed:
        return _rolled(service, now, "an earlier change has not reached all pods")
    change = Obstacle("RollingOut", "the Deployment has not taken the last change", severe=False)
    return SourcePlan(now.key, kept, change=change)


def _serves(pod: PodState, wanted: str) -> bool:
    return pod.source is not None and pod.source.serving == wanted


def _why_not_in_place(
    service: SpongeService, now: Rollout, serving: Sequence[PodState], template: Callable[[str], str]
) -> str:
    """Why the pods have to be replaced, whatever their memory; empty if they need not."""
    spec = service.spec
    if spec.mode == "Off":
        return "spec.mode is Off, so the operator does not talk to the servers"
    if spec.model.variants:
        return "variants belong to one source of the model"
    if not spec.profile.is_measured:
        return "spec.profile names a latency profile, which a server takes when it starts"
    if template(now.key) != now.template:
        return "the pods change in other ways, too"
    if not serving and not now.ready:
        return "no pod accepts requests"
    return next((f"{pod.name}: {pod.fixed_source}" for pod in serving if pod.fixed_source), "")


def _no_room(pod: PodState, wanted: str) -> str:
    failed = None if pod.source is None else pod.source.failed
    return f"{pod.name}: {failed.message}" if failed and failed.no_room and failed.source == wanted else ""


def _progress(pod: PodState, wanted: str, late: int, serving: int) -> Obstacle:
    found = pod.source
    assert found is not None
    if found.failed is not None and found.failed.source == wanted:
        text = f"{pod.name}: {wanted} cannot be loaded: {found.failed.message}"
        return Obstacle("LoadFailed", f"{text}; {found.serving} serves on, and the load is tried again")
    text = f"{pod.name} loads {wanted} beside {found.serving}; {serving - late} of {serving} pods serve it"
    return Obstacle("SourceLoading", text, severe=False)


def _rolled(service: SpongeService, now: Rollout, why: str) -> SourcePlan:
    """Another template. Pods whose template names an entry with the wanted source may still be there: they are used."""
    wanted = service.spec.model.source
    same = (key for key, source in now.sources.items() if source == wanted and key != now.key)
    key = next(same, None) or _another_key(service, now.key)
    return SourcePlan(key, {**now.sources, key: wanted}, rolls=why)


def _another_key(service: SpongeService, former: str) -> str:
    """The same as long as nothing was done, so that an operator which starts again does nothing twice."""
    told = json.dumps([service.uid, service.generation, former])
    return hashlib.sha256(told.encode()).hexdigest()[:10]
