"""The number of pods of one service in virtual time: requested, taken back, kept, said and counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from test_operator_reconcile import World, scenario
from test_operator_status import pod_state, status, verdicts

from sponge_operator.autoscale.replica_scaler import Scaling
from sponge_operator.autoscale.resize import Blocked
from sponge_operator.clients.kube import ApiError
from sponge_operator.reconcile.scaling import DELETION_COST
from sponge_operator.resources.status import cold_start_of

RANGE = {"min": 1, "max": 3}


def replicas(world: World) -> int:
    return int(world.cluster.objects["Deployment", "digits"]["spec"]["replicas"])


def by_hand(world: World, number: int) -> None:
    """Somebody sets the number of pods of the Deployment."""
    world.cluster.objects["Deployment", "digits"]["spec"]["replicas"] = number
    world.reconciler.child_seen("Deployment", world.cluster.touch("Deployment", "digits"))


def told(world: World) -> dict[str, Any]:
    status = next(status for call, status in reversed(world.cluster.calls) if call == "status")
    return dict(status["scaling"])


def marked(world: World) -> list[str]:
    """The pods that were marked to go first."""
    merges = [what for call, what in world.cluster.calls if call == "merge"]
    assert all(list(patch["metadata"]["annotations"]) == [DELETION_COST] for _, _, patch in merges)
    return [name for kind, name, _ in merges if kind == "Pod"]


def test_the_number_is_looked_at_also_while_the_status_has_news_all_the_time() -> None:
    async def act(world: World) -> None:
        world.servers.load_cores, world.servers.answers = 2.5, True
        world.roll_out(1)

    assert replicas(scenario(act, replicas=RANGE)) == 2


def test_the_number_follows_the_load_and_the_pod_that_goes_is_marked() -> None:
    async def act(world: World) -> None:
        world.servers.load_cores = 2.5  # of each pod; one may have 1.5 cores
        world.roll_out(1)
        await asyncio.sleep(20.0)
        assert replicas(world) == 2
        assert (told(world)["wanted"], told(world)["present"], told(world)["serving"]) == (2, 1, 1)
        world.servers.load_cores = 0.9
        world.roll_out(2)
        await asyncio.sleep(5.0)
        assert world.condition("Scaling") == ("True", "Settled")
        assert marked(world) == []
        world.servers.load_cores = 0.1
        await asyncio.sleep(30.0)

    world = scenario(act, replicas=RANGE)
    assert replicas(world) == 2, "twice a cold start of 20 s has not passed"


def test_a_pod_too_many_goes_after_twice_a_cold_start() -> None:
    async def act(world: World) -> None:
        world.body["status"] = {}
        world.servers.load_cores = 0.1
        by_hand(world, 2)
        world.roll_out(2)
        await asyncio.sleep(50.0)
        assert replicas(world) == 1

    world = scenario(act, replicas=RANGE)
    assert marked(world) == ["digits-1"]
    reasons = [event[1] for event in world.events]
    assert "ScaledIn" in reasons
    assert "ScaledOut" not in reasons
    change = told(world)["lastChange"]
    assert (change["from"], change["to"], change["reason"]) == (2, 1, "spare")


def test_pods_that_a_quota_forbids_are_given_up_when_the_load_falls() -> None:
    async def act(world: World) -> None:
        world.servers.load_cores = 0.1
        by_hand(world, 3)
        world.roll_out(2, type="ReplicaFailure", status="True", reason="FailedCreate", message="exceeded quota")
        await asyncio.sleep(50.0)

    assert replicas(scenario(act, replicas=RANGE)) == 2


@pytest.mark.parametrize(("progressing", "kept"), [("True", 2), ("False", 1)])
def test_a_rollout_that_gets_no_further_for_lack_of_room_gets_that_of_a_pod_to_spare(
    progressing: str, kept: int
) -> None:
    async def act(world: World) -> None:
        world.servers.load_cores = 0.1
        by_hand(world, 2)
        world.roll_out(2)
        status = world.cluster.objects["Deployment", "digits"]["status"]
        stuck = {"type": "Progressing", "status": progressing, "reason": "ProgressDeadlineExceeded"}
        counts = {"replicas": 3, "updatedReplicas": 1, "conditions": [stuck]}
        world.reconciler.child_seen("Deployment", world.cluster.report("Deployment", "digits", {**status, **counts}))
        await asyncio.sleep(50.0)

    assert replicas(scenario(act, replicas=RANGE)) == kept


def test_without_the_right_to_mark_a_pod_goes_all_the_same() -> None:
    async def act(world: World) -> None:
        world.cluster.refusals["Pod"] = ApiError(403, {"message": "pods is forbidden"})
        world.servers.load_cores = 0.1
        by_hand(world, 2)
        world.roll_out(2)

    assert replicas(scenario(act, replicas=RANGE)) == 1


@pytest.mark.parametrize(
    ("spec", "annotation", "condition"),
    [
        ({"mode": "Recommend"}, None, ("False", "Recommend")),
        ({"mode": "Off"}, None, ("False", "NotDriven")),
        ({}, "true", ("False", "NotDriven")),
        ({}, "grow", ("True", "Settled")),
        ({"replicas": {"min": 1, "max": 1}}, None, ("False", "Fixed")),
    ],
    ids=["recommend", "off", "paused", "grow-paused", "fixed"],
)
def test_where_nothing_may_change_the_number_stays(
    spec: dict[str, Any], annotation: str | None, condition: tuple[str, str]
) -> None:
    async def act(world: World) -> None:
        if annotation is not None:
            world.body["metadata"]["annotations"] = {"serving.sponge.dev/paused": annotation}
            world.reconciler.service_seen()
        world.servers.load_cores = 2.5
        world.roll_out(1)

    world = scenario(act, **{"replicas": RANGE, **spec})
    assert replicas(world) == 1
    assert world.condition("Scaling") == condition
    if spec.get("mode") == "Recommend":
        assert told(world)["wanted"] == 2


def test_a_number_set_by_hand_is_kept_within_the_range() -> None:
    async def act(world: World) -> None:
        world.servers.load_cores = 1.0
        for number, kept in ((2, 2), (9, 3), (0, 1)):
            by_hand(world, number)
            await asyncio.sleep(1.0)
            assert replicas(world) == kept

    scenario(act, replicas=RANGE)


def test_another_autoscaler_has_the_number_to_itself() -> None:
    target = {"kind": "Deployment", "apiVersion": "apps/v1", "name": "digits"}
    hpa = {"metadata": {"namespace": "team-a", "name": "h", "uid": "h"}, "spec": {"scaleTargetRef": target}}

    async def act(world: World) -> None:
        world.servers.load_cores = 2.5
        world.rivals.seen("HorizontalPodAutoscaler", hpa)
        world.roll_out(1)

    world = scenario(act, replicas=RANGE)
    assert (replicas(world), world.condition("Scaling")) == (1, ("False", "Conflict"))


def test_metrics_count_pods_and_changes() -> None:
    async def act(world: World) -> None:
        world.servers.load_cores = 2.5
        world.roll_out(1)
        await asyncio.sleep(20.0)

    async def look(world: World) -> None:
        await act(world)
        value, own = world.context.metrics.registry.get_sample_value, {"namespace": "team-a", "service": "digits"}
        counts = {s: value("sponge_operator_replicas", {**own, "state": s}) for s in ("wanted", "present", "serving")}
        assert counts == {"wanted": 2, "present": 1, "serving": 1}
        assert value("sponge_operator_scalings_total", {**own, "direction": "out", "reason": "load"}) == 1
        assert value("sponge_operator_cold_start_seconds", own) == 20.0

    world = scenario(look, replicas=RANGE)
    own = {"namespace": "team-a", "service": "digits", "state": "wanted"}
    assert world.context.metrics.registry.get_sample_value("sponge_operator_replicas", own) is None, "it is gone"


@pytest.mark.parametrize("by", ["a person", "a front"])
def test_a_service_without_requests_has_no_pod_until_somebody_waits_for_one(by: str) -> None:
    async def act(world: World) -> None:
        assert replicas(world) == 1, "a new service has one"
        world.servers.load_cores, world.servers.idle_for_s = 0.0, 40.0
        world.roll_out(1)
        await asyncio.sleep(3.0)
        assert replicas(world) == 0
        world.pods.remove(world.pods.get("p0") or {})
        world.roll_out(0)
        await asyncio.sleep(3.0)
        assert world.condition("Ready") == ("True", "ScaledToZero")
        assert world.condition("Scaling") == ("True", "Zero")
        now = "1970-01-12T13:46:44Z"
        if by == "a front":
            world.body["status"] = {"wake": now}
        else:
            world.body["metadata"]["annotations"] = {"serving.sponge.dev/wake": now}
        world.reconciler.service_seen()
        await asyncio.sleep(0.3)
        assert replicas(world) == 1, "it does not wait for the next look"

    world = scenario(act, replicas={"min": 0, "max": 2}, idle={"removeAfter": "30s"})
    assert marked(world) == []


def scaling(**changes: Any) -> Scaling:
    values: dict[str, Any] = {
        "asked": 1,
        "wanted": 1,
        "reason": "hold",
        "serving": 1,
        "starting": 0,
        "lost": 0,
        "cold_start_s": 12.0,
        "load_cores": 1.25,
        "has_cores": 3.0,
    }
    return Scaling(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, ("True", "Settled")),
        ({"starting": 1}, ("True", "Starting")),
        ({"lost": 1}, ("True", "PodsLost")),
        ({"reason": "at-max", "starting": 1}, ("True", "AtMax")),
        ({"stale": ("digits-1",), "load_cores": None}, ("False", "StaleState")),
        ({"load_cores": None}, ("False", "StaleState")),
    ],
    ids=["settled", "starting", "lost", "at-max", "stale", "no-pod"],
)
def test_the_condition_says_what_becomes_of_the_number(changes: dict[str, Any], verdict: tuple[str, str]) -> None:
    made = status(pod_state(), scaling=scaling(**changes), spec={"replicas": RANGE}, deployment=of(1))
    assert verdicts(made)["Scaling"] == verdict


def of(number: int) -> dict[str, Any]:
    """A Deployment of so many pods that is rolled out."""
    counts = {"observedGeneration": 2, "replicas": number, "updatedReplicas": number}
    return {"metadata": {"generation": 2}, "spec": {"replicas": number}, "status": counts}


def test_a_service_is_ready_with_its_fewest_pods_and_shows_those_that_are_wanted() -> None:
    made = status(
        pod_state(), scaling=scaling(asked=3, wanted=3, starting=2), spec={"replicas": RANGE}, deployment=of(3)
    )
    assert (made["serving"], made["replicas"]) == ("1/3", 1)
    assert verdicts(made)["Ready"] == ("True", "PodsReady")
    assert made["scaling"] == {"wanted": 3, "present": 1, "serving": 1, "load": "1.25", "coldStart": "12s"}
    assert cold_start_of(made) == 12.0
    assert cold_start_of({}) is None
    assert "scaling" not in {k for k, v in status(pod_state()).items() if v is not None}


def test_full_nodes_are_said() -> None:
    lacks = pod_state(node="n1", blocked=Blocked("Deferred", "the node is full"))
    made = status(lacks, spec={"replicas": RANGE}, deployment=of(1))
    assert verdicts(made)["NodeFull"] == ("True", "NodeFull")
    (message,) = [c["message"] for c in made["conditions"] if c["type"] == "NodeFull"]
    assert message == "n1: digits-1 lacks cores; another pod follows where the load needs it"
    by_policy = pod_state(node="n1", blocked=Blocked("QuotaExceeded", "a quota"))
    assert verdicts(status(by_policy))["NodeFull"] == ("False", "Room")
