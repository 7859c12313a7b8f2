"""The children of a service: each kept on its own, only when something differs, and never somebody else's."""

from __future__ import annotations

from typing import Any, cast

import pytest
from operator_cluster import Cluster
from test_operator_models import body

from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.reconcile.workload import Workload
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.settings import OperatorSettings

NAMES = {
    "Secret": "digits-sponge-control",
    "ConfigMap": "digits-sponge",
    "Deployment": "digits",
    "Service": "digits",
}
KINDS = tuple(NAMES)


def service(generation: int = 1, **spec: Any) -> SpongeService:
    manifest = body(**spec)
    manifest["metadata"]["generation"] = generation
    return parse_service(manifest)


def workload(cluster: Cluster) -> Workload:
    return Workload(cast(Kube, cluster), service(), OperatorSettings(), Tokens(), Trust())


async def test_children_are_made_once_and_cost_nothing_afterwards() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    assert [kind for call, kind in cluster.calls if call == "apply"] == list(KINDS)
    assert (kept.obstacle, kept.is_current) == (None, True)
    cluster.calls.clear()
    for now in (0.0, 1.0, 60.0, 299.0):
        await kept.keep(service(), now)
    assert cluster.calls == []
    assert 300.0 <= kept.due_at() <= 900.0
    await kept.keep(service(), kept.due_at())
    assert {call for call, _ in cluster.calls} == {"get"}


async def test_an_edit_applies_only_what_it_changes() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    cluster.calls.clear()
    await kept.keep(service(2, cpu={"min": "500m", "max": "1500m", "step": "125m"}), 1.0)
    assert [kind for call, kind in cluster.calls if call == "apply"] == ["ConfigMap"]
    await kept.keep(service(3, replicas={"min": 2, "max": 2}), 2.0)
    assert cluster.objects["Deployment", "digits"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("kind", ["Deployment", "Service", "ConfigMap"])
async def test_what_others_change_is_undone(kind: str) -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    cluster.calls.clear()
    own = cluster.objects[kind, NAMES[kind]]
    kept.seen("ServiceAccount", cluster.put("ServiceAccount", "somebody-else"))
    kept.seen(kind, {**own, "metadata": dict(own["metadata"])})
    assert kept.due_at() > 0.0, "the watch reports what was applied"
    kept.seen(kind, cluster.touch(kind, NAMES[kind]))
    assert kept.due_at() == float("-inf")
    await kept.keep(service(), 1.0)
    assert [one for one in cluster.calls if one[0] == "apply"] == [("apply", kind)]
    del cluster.objects[kind, NAMES[kind]]
    kept.seen(kind, None)
    assert kept.due_at() == float("-inf")
    await kept.keep(service(), 2.0)
    assert (kind, NAMES[kind]) in cluster.objects


async def test_a_secret_that_was_lost_comes_back_with_the_next_edit() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    del cluster.objects["Secret", NAMES["Secret"]]
    await kept.keep(service(2), 1.0)
    assert ("Secret", NAMES["Secret"]) in cluster.objects


@pytest.mark.parametrize("kind", KINDS)
async def test_a_foreign_object_is_left_alone_and_named(kind: str) -> None:
    cluster = Cluster()
    foreign = cluster.put(kind, NAMES[kind])
    kept = workload(cluster)
    for now in range(300):
        await kept.keep(service(), float(now))
    assert cluster.objects[kind, NAMES[kind]] is foreign
    assert kept.obstacle is not None
    assert kept.obstacle.reason == "NameTaken"
    assert f"{kind} {NAMES[kind]!r}" in kept.obstacle.message
    assert not kept.is_current
    # Pods would mount the foreign Secret or ConfigMap.
    assert (("Deployment", "digits") in cluster.objects) == (kind in ("Deployment", "Service"))
    assert cluster.count("get", kind) < 25
    if kind == "Secret":
        assert kept.tokens.known == ()
    del cluster.objects[kind, NAMES[kind]]
    await kept.keep(service(), 400.0)
    assert kept.obstacle is None


@pytest.mark.parametrize("kind", KINDS)
async def test_failures_come_ever_less_often_and_stop_no_other_child(kind: str) -> None:
    cluster = Cluster()
    cluster.refusals[kind] = ApiError(422, {"message": "no address left"})
    kept = workload(cluster)
    for tick in range(1800):
        await kept.keep(service(), tick / 10)
    assert cluster.count("apply", kind) <= 10
    assert kept.obstacle is not None
    assert (kept.obstacle.reason, kept.is_current) == ("ApplyFailed", False)
    assert f"{kind} {NAMES[kind]!r}: no address left" in kept.obstacle.message
    others = {"Secret": {"ConfigMap", "Service"}, "ConfigMap": {"Secret", "Service"}}
    made = {one for one in KINDS if (one, NAMES[one]) in cluster.objects}
    assert made == others.get(kind, {*KINDS} - {kind})
    # An edit is tried at once.
    del cluster.refusals[kind]
    await kept.keep(service(2), 181.0)
    assert kept.obstacle is None


@pytest.mark.parametrize("kind", ["ConfigMap", "Deployment", "Service"])
async def test_running_pods_are_known_at_start_though_a_child_cannot_be_applied(kind: str) -> None:
    cluster = Cluster()
    before = workload(cluster)
    await before.keep(service(), 0.0)
    if kind == "ConfigMap":
        del cluster.objects[kind, NAMES[kind]]
    cluster.refusals[kind] = ApiError(403, {"message": "forbidden"})
    after = workload(cluster)
    await after.keep(service(2, batch={"max": 4}), 0.0)
    assert after.tokens.known == before.tokens.known
    assert after.deployment is not None


async def test_an_api_server_that_is_away_makes_nothing_outdated() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    cluster.silent = set(KINDS)
    await kept.keep(service(), kept.due_at())
    assert kept.obstacle is not None
    assert kept.is_current


async def test_nothing_is_tried_in_a_namespace_that_is_going_away() -> None:
    cluster = Cluster()
    over = ApiError(403, {"message": "being terminated", "details": {"causes": [{"reason": "NamespaceTerminating"}]}})
    cluster.refusals = dict.fromkeys(KINDS, over)
    kept = workload(cluster)
    for tick in range(600):
        await kept.keep(service(), float(tick))
        kept.seen("Deployment", None)
    assert cluster.count("apply") <= len(KINDS)
    assert kept.obstacle is not None
    assert kept.obstacle.reason == "NamespaceTerminating"


async def test_a_manifest_that_cannot_be_built_stops_no_other_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr("sponge_operator.reconcile.workload.build_config_map", fail)
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    assert kept.obstacle is not None
    assert kept.obstacle.reason == "InternalError"
    assert {kind for kind, _ in cluster.objects} == {"Secret", "Service"}


async def test_a_limit_that_somebody_removed_is_set_again() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    (container,) = cluster.objects["Deployment", "digits"]["spec"]["template"]["spec"]["containers"]
    size = container.pop("resources")
    kept.seen("Deployment", cluster.touch("Deployment", "digits"))
    await kept.keep(service(), 1.0)
    (container,) = cluster.objects["Deployment", "digits"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == size


async def test_orphans_are_adopted_with_their_token() -> None:
    cluster = Cluster()
    before = workload(cluster)
    await before.keep(service(), 0.0)
    for found in cluster.objects.values():
        found["metadata"]["ownerReferences"] = []
    after = workload(cluster)
    await after.keep(service(), 0.0)
    assert (after.obstacle, after.tokens.known) == (None, before.tokens.known)
    assert all(found["metadata"]["ownerReferences"] for found in cluster.objects.values())


async def test_another_autoscalers_number_of_pods_is_kept_while_it_is_there() -> None:
    cluster = Cluster()
    kept = workload(cluster)
    await kept.keep(service(), 0.0)
    deployment = cluster.objects["Deployment", "digits"]
    deployment["spec"]["replicas"] = 3
    kept.seen("Deployment", cluster.touch("Deployment", "digits"))
    await kept.keep(service(), 1.0, held=True)
    await kept.keep(service(2, slo={"latency": "100ms"}), 2.0, held=True)
    assert cluster.objects["Deployment", "digits"]["spec"]["replicas"] == 3
    await kept.keep(service(2, slo={"latency": "100ms"}), 3.0)
    assert cluster.objects["Deployment", "digits"]["spec"]["replicas"] == 1
