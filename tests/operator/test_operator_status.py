"""The status of a service, from the states of its pods."""

from __future__ import annotations

from typing import Any

import pytest
from test_operator_models import body

from sponge_core.control_api import FrontierPoint, SourceReport, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale.pod_state import LastDecision, PodState
from sponge_operator.autoscale.resize import Blocked
from sponge_operator.autoscale.target import Starting
from sponge_operator.reconcile.attainment import Attainment
from sponge_operator.resources.model import parse_service
from sponge_operator.resources.obstacles import Obstacle
from sponge_operator.resources.status import broken_status, build_status, substance
from sponge_operator.resources.status_input import StatusInput

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def snapshot(**changes: Any) -> StateSnapshot:
    values: dict[str, Any] = {
        "version": 1,
        "applied_version": 1,
        "now_s": 0.0,
        "ready": True,
        "draining": False,
        "models": ["digits"],
        "cores_milli": 500,
        "cpu_quota_milli": 500,
        "thread_budget": 1,
        "threads_running": 0,
        "batch_cap": 8,
        "lanes": [],
        "queue_length": 0,
        "queue_slack_s": [],
        "uploads_in_flight": 0,
        "arrival_rate_rps": 0.0,
        "remaining_slo_s": [],
        "outcomes": {},
        "latency_p99_s": 0.1234,
        "throttled_s": 0.0,
        "prediction_ratio": 1.0,
        "idle_for_s": 0.0,
        "urgent": False,
        "frontier": [FrontierPoint(cores_milli=500, batch_cap=8, misses=0)],
    }
    return StateSnapshot.model_validate({**values, **changes})


def pod_state(name: str = "digits-1", **changes: Any) -> PodState:
    values: dict[str, Any] = {
        "reachable": True,
        "trouble": "",
        "seen_at": 0.0,
        "snapshot": snapshot(),
        "recommendation": Recommendation(500, 8, True, "hold"),
        "actuated_milli": 500,
        "in_service": True,
    }
    return PodState(name, **{**values, **changes})


def deployment(wanted: int = 1, updated: int | None = None, **conditions: tuple[str, str, str]) -> dict[str, Any]:
    """A Deployment with so many pods of its newest template; conditions as status, reason and message."""
    updated = wanted if updated is None else updated
    return {
        "metadata": {"generation": 2},
        "status": {
            "observedGeneration": 2,
            "replicas": wanted,
            "updatedReplicas": updated,
            "conditions": [
                {"type": kind, "status": status, "reason": reason, "message": message}
                for kind, (status, reason, message) in conditions.items()
            ],
        },
    }


def fronts(updated: int, ready: int, **conditions: tuple[str, str, str]) -> dict[str, Any]:
    """The Deployment of two fronts."""
    made = deployment(2, updated, **conditions)
    return {**made, "status": {**made["status"], "readyReplicas": ready}}


def status(
    *pods: PodState, attainment: float | None = 99.987, before: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    manifest = body(**changes.pop("spec", {}))
    manifest["metadata"]["annotations"] = changes.pop("annotations", {})
    values: dict[str, Any] = {
        "service": (service := parse_service(manifest)),
        "pods": pods,
        "deployment": deployment(service.spec.replicas.max),
        "is_current": True,
        "attainment": attainment,
        "trouble": None,
        "missing_profile": None,
        "secret_trouble": None,
        "conflict": None,
        "now": NOW,
        **changes,
    }
    return build_status(StatusInput(**values), before or {})


def verdicts(made: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in made["conditions"]}


@pytest.mark.parametrize(
    ("pods", "changes", "expected"),
    [
        ([pod_state()], {}, ("True", "Live", "every pod that accepts requests serves digits://")),
        ([pod_state()], {"deployment": deployment(1, 0)}, ("False", "RollingOut", "pods are replaced")),
        ([pod_state(in_service=False)], {}, ("Unknown", "NoPods", "no pod accepts requests")),
        (
            [pod_state()],
            {"source_change": Obstacle("LoadFailed", "digits-1: torn weights")},
            ("False", "LoadFailed", "digits-1: torn weights"),
        ),
    ],
    ids=["live", "rolling", "no pod", "failed"],
)
def test_source_live(pods: list[PodState], changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    made = status(*pods, **changes)
    found = next(condition for condition in made["conditions"] if condition["type"] == "SourceLive")
    assert (found["status"], found["reason"]) == expected[:2]
    assert found["message"].startswith(expected[2])
    if "source_change" in changes:
        assert verdicts(made)["Ready"] == expected[:2], "the newest generation does not serve"
        assert verdicts(made)["Available"] == ("True", "PodsServe")


@pytest.mark.parametrize(
    ("front", "changes", "expected"),
    [
        (None, {}, ("False", "NoFront", "no front")),
        (2, {}, ("False", "NoPods", "0 of 2 fronts take requests; the Deployment 'digits-front' is being made")),
        (2, {"front": fronts(2, 2)}, ("True", "FrontsReady", "2 of 2 fronts")),
        (2, {"front": fronts(2, 1)}, ("False", "FrontsNotReady", "front=digits says why")),
        (2, {"front": fronts(1, 2)}, ("False", "RollingOut", "2 of 2 fronts take requests; 1 of 2 pods")),
        (
            2,
            {"front": fronts(0, 0, ReplicaFailure=("True", "FailedCreate", "quota"))},
            ("False", "FailedCreate", "quota"),
        ),
        (
            2,
            {"front": fronts(2, 1), "front_secret_trouble": Obstacle("SecretMissing", "Secret 't' does not exist")},
            ("False", "SecretMissing", "1 of 2 fronts take requests; Secret 't' does not exist"),
        ),
        (
            2,
            {"front": fronts(2, 2), "front_secret_trouble": Obstacle("SecretInvalid", "Secret 't' has no pair")},
            ("True", "FrontsReady", "2 of 2 fronts take requests; they go on with what they have"),
        ),
        (
            2,
            {"front": fronts(2, 2), "front_trouble": Obstacle("ApplyFailed", "no right")},
            ("False", "ApplyFailed", "2 of 2 fronts take requests; no right"),
        ),
    ],
)
def test_the_front_is_told(front: int | None, changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    made = status(pod_state(), spec={} if front is None else {"front": {"replicas": front}}, **changes)
    found = next(condition for condition in made["conditions"] if condition["type"] == "FrontReady")
    assert (found["status"], found["reason"]) == expected[:2]
    assert expected[2] in found["message"]
    ready = changes["front"]["status"]["readyReplicas"] if "front" in changes else 0
    assert made["front"] == (None if front is None else {"wanted": front, "ready": ready})


def test_the_source_of_each_pod_is_shown() -> None:
    made = status(pod_state(source=SourceReport(serving="digits://")), pod_state("digits-2"))
    assert [pod.get("source") for pod in made["pods"]] == ["digits://", None]


def test_two_pods_at_work() -> None:
    last = LastDecision(NOW - 60, 250, 1000, 4, "grow", applied=True)
    second = pod_state(
        "digits-2", actuated_milli=1000, recommendation=Recommendation(1250, 4, True, "grow"), in_flight=True, last=last
    )
    made = status(pod_state(), second, spec={"replicas": {"min": 2, "max": 2}})
    assert {key: made[key] for key in ("cores", "desiredCores", "batch", "replicas", "attainment", "p99")} == {
        "cores": "1.5",
        "desiredCores": "1.75",
        "batch": 8,
        "replicas": 2,
        "attainment": "99.98",
        "p99": "123ms",
    }
    assert made["pods"][1] == {
        "name": "digits-2",
        "reason": "grow",
        "cores": "1.25",
        "actuatedCores": "1",
        "batch": 8,
    }
    assert made["lastDecision"] == {
        "time": "2025-12-31T23:59:00Z",
        "pod": "digits-2",
        "from": "0.25",
        "to": "1",
        "batch": 4,
        "reason": "grow",
        "applied": True,
    }
    assert verdicts(made) == {
        "Ready": ("True", "PodsReady"),
        "Available": ("True", "PodsServe"),
        "Synced": ("True", "Applied"),
        "SourceLive": ("True", "Live"),
        "ProfileReady": ("True", "ProfileKnown"),
        "Planning": ("True", "Auto"),
        "Resizing": ("True", "InFlight"),
        "ResizeBlocked": ("False", "NothingBlocked"),
        "SLOAttained": ("True", "Attained"),
        "Conflict": ("False", "NoConflict"),
        "Scaling": ("False", "Fixed"),
        "NodeFull": ("False", "Room"),
        "FrontReady": ("False", "NoFront"),
    }


def waiting(reason: str) -> PodState:
    return PodState("digits-9", obstacle=Obstacle(reason, "as Kubernetes says"))


TAKEN = Obstacle("NameTaken", "Service 'digits' exists and is not this service's")
THREE = {"replicas": {"min": 3, "max": 3}}
QUOTA = deployment(2, 2, ReplicaFailure=("True", "FailedCreate", "pods is forbidden: exceeded quota: q, used: pods=2"))
NEVER_SEEN: dict[str, Any] = {"seen_at": None, "snapshot": None, "in_service": False}


@pytest.mark.parametrize(
    ("condition", "expected", "pods", "changes"),
    [
        ("Ready", ("False", "NoPods"), [], {}),
        ("ProfileReady", ("False", "Drifted"), [pod_state(snapshot=snapshot(profile_drifted=True))], {}),
        ("Ready", ("False", "NoState"), [pod_state(reachable=False, trouble="refused")], {}),
        ("Ready", ("False", "Loading"), [pod_state(in_service=False)], {}),
        ("Ready", ("False", "Unschedulable"), [waiting("Unschedulable")], {}),
        ("Ready", ("False", "ErrImagePull"), [pod_state(), waiting("ErrImagePull")], {"deployment": deployment(1, 0)}),
        ("Available", ("True", "PodsServe"), [pod_state(), waiting("ErrImagePull")], {}),
        ("Available", ("False", "NoPodServes"), [waiting("ErrImagePull")], {}),
        ("Ready", ("False", "RollingOut"), [pod_state()], {"deployment": deployment(1, 0)}),
        ("Ready", ("False", "FailedCreate"), [pod_state()], {"deployment": QUOTA, "spec": THREE}),
        ("Ready", ("False", "FailedCreate"), [], {"deployment": QUOTA, "spec": THREE}),
        ("Ready", ("True", "PodsReady"), [PodState("digits-1", in_service=True)], {"spec": {"mode": "Off"}}),
        ("Ready", ("False", "NameTaken"), [pod_state()], {"trouble": TAKEN, "is_current": False}),
        ("Ready", ("True", "PodsReady"), [pod_state()], {"trouble": TAKEN}),
        ("Synced", ("False", "NameTaken"), [pod_state()], {"trouble": TAKEN}),
        ("Planning", ("True", "Auto"), [pod_state(), pod_state("new", reachable=False, **NEVER_SEEN)], {}),
        ("Planning", ("True", "Auto"), [pod_state(), pod_state("b", reachable=False, trouble="refused")], {}),
        ("Planning", ("True", "Auto"), [], {}),
        ("Planning", ("False", "Conflict"), [pod_state()], {"conflict": "an HPA"}),
        ("ProfileReady", ("Unknown", "NoPods"), [], {}),
        ("ProfileReady", ("False", "NoFrontier"), [pod_state(snapshot=snapshot(frontier=[]))], {}),
        ("ProfileReady", ("False", "ReferenceMissing"), [pod_state()], {"missing_profile": "no ConfigMap"}),
        ("Planning", ("False", "StaleState"), [pod_state(reachable=False, trouble="refused")], {}),
        ("Planning", ("False", "Off"), [], {"spec": {"mode": "Off"}}),
        ("Planning", ("True", "Recommend"), [pod_state()], {"spec": {"mode": "Recommend"}}),
        ("Planning", ("False", "Paused"), [pod_state()], {"annotations": {"serving.sponge.dev/paused": "true"}}),
        ("Planning", ("True", "Auto"), [pod_state()], {"annotations": {"serving.sponge.dev/paused": "false"}}),
        ("Planning", ("True", "GrowPaused"), [pod_state()], {"annotations": {"serving.sponge.dev/paused": "grow"}}),
        ("Planning", ("True", "ShrinkPaused"), [pod_state()], {"annotations": {"serving.sponge.dev/paused": "shrink"}}),
        ("Planning", ("False", "PauseInvalid"), [pod_state()], {"annotations": {"serving.sponge.dev/paused": "up"}}),
        ("Planning", ("False", "NoResizeApi"), [pod_state()], {"unable": ("NoResizeApi", "upgrade")}),
        ("ResizeBlocked", ("True", "Deferred"), [pod_state(blocked=Blocked("Deferred", "no room"))], {}),
        ("SLOAttained", ("False", "Missed"), [pod_state()], {"attainment": 98.9}),
        ("SLOAttained", ("Unknown", "NoTraffic"), [pod_state()], {"attainment": None}),
        ("Conflict", ("True", "OtherAutoscaler"), [pod_state()], {"conflict": "an HPA"}),
    ],
)
def test_condition(condition: str, expected: tuple[str, str], pods: list[PodState], changes: dict[str, Any]) -> None:
    assert verdicts(status(*pods, **changes))[condition] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": {"mode": "Off"}},
        {"spec": {"mode": "Recommend"}},
        {"annotations": {"serving.sponge.dev/paused": "true"}},
        {"annotations": {"serving.sponge.dev/paused": "grow"}},
    ],
)
def test_a_container_that_starts_small_is_named_where_it_may_not_grow(changes: dict[str, Any]) -> None:
    pods = [pod_state("a", starting=Starting(50, 1000)), pod_state("b", starting=Starting(1000, 1000)), pod_state("c")]
    message = next(c["message"] for c in status(*pods, **changes)["conditions"] if c["type"] == "Planning")
    assert "; a starts at 0.05 cores instead of 1" in message
    assert message.count(" starts at ") == 1


def test_a_quota_on_pods_is_named() -> None:
    made = status(pod_state("a"), pod_state("b"), deployment=QUOTA, spec=THREE)
    assert made["serving"] == "2/3"
    assert "exceeded quota: q" in next(c["message"] for c in made["conditions"] if c["type"] == "Ready")


def test_a_status_that_cannot_be_told_keeps_what_was_known() -> None:
    before = status(pod_state())
    broken = broken_status(before, "InternalError", "KeyError: 'x'", NOW, 7)
    assert broken["pods"] == before["pods"]
    assert verdicts(broken) == {
        **verdicts(before),
        "Ready": ("Unknown", "InternalError"),
        "Synced": ("False", "InternalError"),
    }
    assert substance(broken) != substance(before)


def test_only_a_changed_condition_gets_a_new_transition_time() -> None:
    before = status(pod_state(), now=NOW - 100)
    after = status(pod_state(reachable=False, trouble="refused"), before=before)
    times = {condition["type"]: condition["lastTransitionTime"] for condition in after["conditions"]}
    assert times["Planning"] == "2026-01-01T00:00:00Z"
    assert times["Conflict"] == "2025-12-31T23:58:20Z"


def test_the_last_decision_survives_its_pod() -> None:
    before = status(pod_state(last=LastDecision(NOW, 250, 500, 8, "grow", applied=True)))
    assert status(before=before)["lastDecision"] == before["lastDecision"]


def test_changes_of_figures_alone_may_wait() -> None:
    calm = status(pod_state())
    assert substance(status(pod_state(actuated_milli=750), attainment=99.5)) == substance(calm)
    assert substance(status(pod_state(in_flight=True))) != substance(calm)


def test_attainment_counts_the_last_minute() -> None:
    attainment = Attainment(window_s=60.0)
    assert attainment.percent() is None
    attainment.observe(0.0, "a", {"in_time": 1000, "late": 1000})  # before anybody looked
    assert attainment.percent() is None
    attainment.observe(10.0, "a", {"in_time": 1090, "late": 1010})
    attainment.observe(10.0, "b", {"in_time": 0})
    assert attainment.percent() == 90.0
    attainment.observe(20.0, "b", {"in_time": 100})
    assert attainment.percent() == 95.0
    attainment.observe(75.0, "a", {"in_time": 1090, "late": 1010})
    attainment.observe(75.0, "b", {"in_time": 100})
    assert attainment.percent() == 100.0
    attainment.observe(85.0, "b", {"in_time": 100})
    assert attainment.percent() is None


def test_attainment_of_a_pod_that_restarted() -> None:
    attainment = Attainment()
    attainment.observe(0.0, "a", {"in_time": 500})
    attainment.observe(1.0, "a", {"in_time": 3, "shed": 1})
    assert attainment.percent() == 75.0
    attainment.forget("a")
    assert attainment.percent() is None
