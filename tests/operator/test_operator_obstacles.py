"""Why a pod or a rollout is not ready, in Kubernetes' own words."""

from __future__ import annotations

from typing import Any

import pytest

from sponge_operator.resources.obstacles import failure_of, is_rolled_out, obstacle_of_pod


def container(state: dict[str, Any], name: str = "server", **more: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": name, "state": state, "ready": False, "restartCount": 0, **more}]}


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}}, **more)


def ready_containers(reason: str, message: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False"} | ({"reason": reason, "message": message} if reason else {})
    return {"phase": "Running", "conditions": [{"type": "ContainersReady", "status": "True"}, ready]}


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message}]}


KILLED = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
FAILED = {"terminated": {"reason": "Error", "exitCode": 3, "message": "no such model\n"}}


@pytest.mark.parametrize(
    ("status", "reason", "severe", "text"),
    [
        ({}, None, None, ""),
        (condition("Ready", "True"), None, None, ""),
        (condition("PodScheduled", "False", "Unschedulable", "0/1 nodes: cpu"), "Unschedulable", True, "0/1 nodes"),
        (condition("PodScheduled", "False", "SchedulingGated"), "SchedulingGated", True, ""),
        (waiting("ContainerCreating"), "ContainerCreating", False, ""),
        (waiting("ErrImagePull", "no such image x:1"), "ErrImagePull", True, "no such image x:1"),
        (waiting("ImagePullBackOff", "Back-off"), "ImagePullBackOff", True, "Back-off"),
        (waiting("InvalidImageName"), "InvalidImageName", True, ""),
        (waiting("CreateContainerConfigError", "secret not found"), "CreateContainerConfigError", True, "secret"),
        (
            waiting("CrashLoopBackOff", "back-off 10s", lastState=FAILED, restartCount=2),
            "CrashLoopBackOff",
            True,
            "last exit code 3 (no such model), 2 restarts",
        ),
        (waiting("CrashLoopBackOff", lastState=KILLED, restartCount=1), "OOMKilled", True, "1 restart; raise"),
        (container({"running": {}}, lastState=KILLED, restartCount=1), "OOMKilled", True, "memory limit"),
        (container(FAILED), "Error", True, "last exit code 3"),
        (container({"running": {}}, started=False), None, None, ""),
        (container({"running": {}}, started=True), "ProbeFailing", False, "readiness probe"),
        (container({"running": {}}, name="proxy", started=True), "ProbeFailing", True, "'proxy'"),
        (ready_containers("", ""), "NodeNotReady", True, "node n1 does not report"),
        (ready_containers("ReadinessGatesNotReady", "gate x"), "ReadinessGatesNotReady", True, "gate x"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "Evicted", True, "low on memory"),
        (
            {
                "initContainerStatuses": waiting("ErrImagePull", name="fetch")["containerStatuses"],
                **waiting("PodInitializing"),
            },
            "ErrImagePull",
            True,
            "'fetch'",
        ),
    ],
)
def test_a_pod(status: dict[str, Any], reason: str | None, severe: bool | None, text: str) -> None:
    obstacle = obstacle_of_pod({"metadata": {}, "spec": {"nodeName": "n1"}, "status": status})
    if obstacle is None:
        assert reason is None
    else:
        assert (obstacle.reason, obstacle.severe) == (reason, severe)
        assert text in obstacle.message


def test_pods_that_cannot_be_created() -> None:
    quota = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota: q")
    stuck = condition("Progressing", "False", "ProgressDeadlineExceeded", "timed out")
    assert failure_of({"status": quota}) is not None
    found = failure_of({"status": stuck})
    assert found is not None
    assert (found.reason, found.message) == ("ProgressDeadlineExceeded", "timed out")
    assert failure_of({"status": condition("Progressing", "True", "NewReplicaSetAvailable")}) is None
    assert failure_of({}) is None


@pytest.mark.parametrize(
    ("generation", "status", "complete"),
    [
        (2, {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2}, True),
        (3, {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2}, False),
        (2, {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1}, False),
        (2, {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2}, False),
        (2, {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, False),
        (1, {}, False),
    ],
)
def test_a_rollout_is_complete(generation: int, status: dict[str, Any], complete: bool) -> None:
    assert is_rolled_out({"metadata": {"generation": generation}, "status": status}, wanted=2) is complete
