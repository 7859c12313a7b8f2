"""What keeps a pod or a rollout from being ready, in Kubernetes' own reasons and messages. Pure.

Objects come in as the API server sends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sponge_operator.resources.manifests import CONTAINER

__all__ = [
    "Obstacle",
    "failure_of",
    "has_one_template",
    "is_observed",
    "is_rolled_out",
    "obstacle_of_pod",
    "rollout_of",
]

USUAL = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that waits its turn; every other one needs somebody's hand."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One obstacle.

    Attributes:
        reason: machine-readable; as Kubernetes says it where it says one.
        severe: somebody has to do something; False for a step that every start passes through.
    """

    reason: str
    message: str
    severe: bool = True


def obstacle_of_pod(pod: Mapping[str, Any]) -> Obstacle | None:
    """What keeps a pod from being Ready; None if it is, or if nothing but the server itself knows."""
    status = pod.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if (conditions.get("Ready") or {}).get("status") == "True":
        return None
    if status.get("phase") in ("Failed", "Succeeded"):
        return Obstacle(status.get("reason") or "PodEnded", status.get("message") or "the pod has ended")
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") == "False":
        return Obstacle(scheduled.get("reason") or "Unschedulable", scheduled.get("message") or "no node takes it")
    if (conditions.get("ContainersReady") or {}).get("status") == "True":
        return _of_ready_containers(pod, conditions.get("Ready") or {})
    found = list(_of_containers(status))
    return next((obstacle for obstacle in found if obstacle.severe), found[0] if found else None)


def _of_ready_containers(pod: Mapping[str, Any], ready: Mapping[str, Any]) -> Obstacle | None:
    """Why a pod whose containers are all ready is not: a readiness gate, or a node that no longer reports."""
    if not ready:
        return None
    if ready.get("reason"):
        return Obstacle(ready["reason"], ready.get("message") or "the pod is not ready")
    node = pod["spec"].get("nodeName") or "of the pod"
    return Obstacle("NodeNotReady", f"node {node} does not report, so the Service sends the pod nothing")


def _of_containers(status: Mapping[str, Any]) -> Iterator[Obstacle]:
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        name, state = one["name"], one.get("state") or {}
        ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled" and not one.get("ready"):
            text = f"container {name!r} was killed because it needs more than its memory limit"
            yield Obstacle("OOMKilled", f"{text}{_restarts(one)}; raise spec.memory.base")
        elif waiting := state.get("waiting"):
            reason = waiting.get("reason") or "ContainerCreating"
            text = f"container {name!r}: {waiting.get('message') or reason}"
            yield Obstacle(reason, f"{text}{_exit(ended)}{_restarts(one)}", severe=reason not in USUAL)
        elif "terminated" in state and ended.get("exitCode") != 0:
            yield Obstacle(ended.get("reason") or "Error", f"container {name!r} has ended{_exit(ended)}")
        elif "running" in state and one.get("started") and not one.get("ready"):
            message = f"container {name!r} runs, but its readiness probe fails{_restarts(one)}"
            yield Obstacle("ProbeFailing", message, severe=name != CONTAINER)


def _exit(ended: Mapping[str, Any]) -> str:
    if not ended:
        return ""
    said = f" ({ended['message'].strip()[-300:]})" if ended.get("message") else ""
    return f", last exit code {ended.get('exitCode')}{said}"


def _restarts(one: Mapping[str, Any]) -> str:
    count = one.get("restartCount") or 0
    return f", {count} restart{'s' if count > 1 else ''}" if count else ""


def failure_of(deployment: Mapping[str, Any]) -> Obstacle | None:
    """Why a Deployment gets no further: pods that cannot be created, or no progress in time."""
    conditions = {c["type"]: c for c in (deployment.get("status") or {}).get("conditions") or ()}
    failure, progress = conditions.get("ReplicaFailure") or {}, conditions.get("Progressing") or {}
    if failure.get("status") == "True":
        return Obstacle(failure.get("reason") or "FailedCreate", failure.get("message") or "no pod can be created")
    if progress.get("status") == "False":
        return Obstacle(progress.get("reason") or "ProgressDeadlineExceeded", progress.get("message") or "no progress")
    return None


def is_rolled_out(deployment: Mapping[str, Any], wanted: int) -> bool:
    """Whether all pods run the newest template, and no other pod is left."""
    updated = (deployment.get("status") or {}).get("updatedReplicas", 0)
    return bool(is_observed(deployment) and updated >= wanted and has_one_template(deployment))


def is_observed(deployment: Mapping[str, Any]) -> bool:
    """Whether the status of a Deployment is that of its newest spec."""
    observed = (deployment.get("status") or {}).get("observedGeneration", 0)
    return bool(observed >= deployment["metadata"].get("generation", 0))


def has_one_template(deployment: Mapping[str, Any]) -> bool:
    """Whether all pods that a Deployment has, by its status, have one template: the newest that it has observed."""
    status = deployment.get("status") or {}
    return bool(status.get("replicas", 0) == status.get("updatedReplicas", 0))


def rollout_of(deployment: Mapping[str, Any], wanted: int) -> Obstacle:
    """How far a rollout is that is not complete."""
    updated = (deployment.get("status") or {}).get("updatedReplicas", 0)
    return Obstacle("RollingOut", f"{updated} of {wanted} pods have the newest template", severe=False)
