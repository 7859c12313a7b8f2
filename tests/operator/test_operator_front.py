"""The front of a service: its objects, kept and removed, and never somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import yaml
from operator_cluster import Cluster
from test_operator_models import body
from test_operator_rights import resource

from sponge_cluster.chart import CHART
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.handlers import FRONT_CHILDREN
from sponge_operator.reconcile.front import RETRY_S, FrontKeeper
from sponge_operator.resources.front_manifests import FRONT_LABEL, KINDS, FrontSettings, account_of, build_front
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.pod_security import added_violations
from sponge_operator.settings import OperatorSettings

FRONT = {"replicas": 3}


class ClusterWithDeletes(Cluster):
    """As the real one, it deletes only the object whose uid was named."""

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        self.calls.append(("delete", kind))
        if kind in self.refusals:
            raise self.refusals[kind]
        assert self.objects[kind, name]["metadata"]["uid"] == uid
        del self.objects[kind, name]


def service(generation: int = 1, **spec: Any) -> SpongeService:
    manifest = body(**spec)
    manifest["metadata"]["generation"] = generation
    return parse_service(manifest)


def keeper(cluster: Cluster, settings: OperatorSettings | None = None) -> FrontKeeper:
    return FrontKeeper(cast(Kube, cluster), service(), settings or OperatorSettings())


def fronts(cluster: Cluster) -> set[str]:
    return {kind for kind, name in cluster.objects if name == "digits-front"}


def containers(deployment: Mapping[str, Any]) -> dict[str, Any]:
    spec = deployment["spec"]["template"]["spec"]
    return {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}


async def test_the_objects_are_made_once_and_looked_at_now_and_then() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    assert [kind for call, kind in cluster.calls if call == "apply"] == list(KINDS)
    assert kept.obstacle is None
    cluster.calls.clear()
    await kept.keep(service(front=FRONT), 1.0)
    assert cluster.calls == []
    cluster.touch("Service", "digits-front")
    await kept.keep(service(front=FRONT), kept.due_at())
    assert [kind for call, kind in cluster.calls if call == "apply"] == ["Service"]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_somebody_deletes_or_changes_comes_back_at_once(kind: str) -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    made = cluster.objects[kind, "digits-front"]
    cluster.calls.clear()
    kept.seen(kind, made)
    assert kept.due_at() > 1.0, "its own change"
    del cluster.objects[kind, "digits-front"]
    kept.seen(kind, None)
    await kept.keep(service(front=FRONT), 1.0)
    replaced = ["Deployment"] if kind == "ServiceAccount" else []
    assert [name for call, name in cluster.calls if call == "apply"] == [kind, *replaced]
    cluster.calls.clear()
    kept.seen(kind, cluster.touch(kind, "digits-front"))
    await kept.keep(service(front=FRONT), 2.0)
    assert [name for call, name in cluster.calls if call == "apply"] == [kind]
    cluster.calls.clear()
    await kept.keep(service(front=FRONT), 3.0)
    assert cluster.calls == []


async def test_pods_are_replaced_when_their_account_is_another_one() -> None:
    def account() -> str:
        return account_of(cluster.objects["Deployment", "digits-front"])

    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    former = cluster.objects.pop(("ServiceAccount", "digits-front"))["metadata"]["uid"]
    assert account() == former
    cluster.refusals["ServiceAccount"] = ApiError(403, {"message": "no right"})
    kept.seen("ServiceAccount", None)
    await kept.keep(service(front=FRONT), 1.0)
    assert account() == former, "none could start without one"
    del cluster.refusals["ServiceAccount"]
    await kept.keep(service(front=FRONT), kept.due_at())
    assert account() == cluster.objects["ServiceAccount", "digits-front"]["metadata"]["uid"] != former


async def test_the_label_on_an_object_of_another_kind_means_nothing() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    cluster.calls.clear()
    kept.seen("ConfigMap", cluster.put("ConfigMap", "somebody-else"))
    await kept.keep(service(front=FRONT), 1.0)
    assert cluster.calls == []


@pytest.mark.parametrize("kind", ["Deployment", "PodDisruptionBudget"])
async def test_a_status_of_the_front_is_taken_over_without_a_call(kind: str) -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    cluster.calls.clear()
    kept.seen(kind, cluster.report(kind, "digits-front", {"readyReplicas": 2}))
    await kept.keep(service(front=FRONT), 1.0)
    assert cluster.calls == []
    if kind == "Deployment":
        assert kept.deployment is not None
        assert kept.deployment["status"] == {"readyReplicas": 2}


async def test_an_edit_reaches_the_front() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    await kept.keep(service(2, front={}), 1.0)
    assert cluster.objects["Deployment", "digits-front"]["spec"]["replicas"] == 2


async def test_a_front_that_is_not_wanted_any_more_is_removed_the_deployment_last() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    cluster.put("Service", "digits")
    await kept.keep(service(2), 1.0)
    assert fronts(cluster) == set()
    assert [kind for call, kind in cluster.calls if call == "delete"] == list(KINDS)
    assert ("Service", "digits") in cluster.objects
    await kept.keep(service(3, front=FRONT), 2.0)
    assert fronts(cluster) == set(KINDS)


async def test_without_a_front_one_look_is_enough() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    for now in (0.0, 1.0, 2.0):
        await kept.keep(service(), now)
    assert cluster.calls == [("get", "Deployment")]


async def test_what_belongs_to_somebody_else_is_left_alone() -> None:
    cluster = ClusterWithDeletes()
    for kind in KINDS:
        cluster.put(kind, "digits-front")
    kept = keeper(cluster)
    await kept.keep(service(), 0.0)
    assert fronts(cluster) == set(KINDS)
    await kept.keep(service(2, front=FRONT), 1.0)
    assert kept.obstacle is not None
    assert kept.obstacle.reason == "NameTaken"
    assert cluster.count("apply") == 0


async def test_orphans_of_a_former_service_of_the_name_are_adopted() -> None:
    cluster = ClusterWithDeletes()
    labels = build_front("Service", service(front=FRONT), FrontSettings())["metadata"]["labels"]
    cluster.put("Service", "digits-front", labels=labels)
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    assert kept.obstacle is None


async def test_a_refusal_is_told_and_tried_again() -> None:
    cluster = ClusterWithDeletes()
    cluster.refusals["RoleBinding"] = ApiError(403, {"message": "no right"})
    kept = keeper(cluster)
    await kept.keep(service(front=FRONT), 0.0)
    assert kept.obstacle is not None
    assert "no right" in kept.obstacle.message
    assert 0.0 < kept.due_at() < 10.0
    del cluster.refusals["RoleBinding"]
    await kept.keep(service(front=FRONT), kept.due_at())
    assert kept.obstacle is None
    cluster.refusals["Service"] = ApiError(403, {"message": "no right"})
    await kept.keep(service(2), 100.0)
    assert kept.obstacle is not None
    assert kept.due_at() == 100.0 + RETRY_S
    del cluster.refusals["Service"]
    await kept.keep(service(2), kept.due_at())
    assert (kept.obstacle, fronts(cluster)) == (None, set())


@pytest.mark.parametrize(
    ("settings", "spec", "says"),
    [
        (OperatorSettings(front=FrontSettings(role="")), {}, "front.enabled=true"),
        (OperatorSettings(), {"tls": {"secretName": "t"}}, "remove front or tls"),
    ],
)
async def test_a_front_that_cannot_be_had_is_refused(
    settings: OperatorSettings, spec: dict[str, Any], says: str
) -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster, settings)
    await kept.keep(service(front=FRONT, **spec), 0.0)
    assert kept.obstacle is not None
    assert (kept.obstacle.reason, says in kept.obstacle.message) == ("FrontRefused", True)
    assert fronts(cluster) == set()


def test_no_object_of_a_front_passes_for_one_of_a_server() -> None:
    for kind in KINDS:
        made = build_front(kind, service(front=FRONT), FrontSettings())
        assert SERVICE_LABEL not in str(made)
        assert made["metadata"]["labels"][FRONT_LABEL] == "digits"
        assert made["metadata"]["ownerReferences"][0]["kind"] == "SpongeService"


def test_the_pods_hold_the_proxy_and_the_picker_and_keep_to_the_strictest_level() -> None:
    settings = FrontSettings("r", "picker:1", "envoy:2", {"spec": {"nodeSelector": {"a": "b"}}})
    deployment = build_front("Deployment", service(front=FRONT), settings)
    found = containers(deployment)
    assert {name: each["image"] for name, each in found.items()} == {
        "prepare": "picker:1",
        "picker": "picker:1",
        "envoy": "envoy:2",
    }
    directory = found["picker"]["args"][found["picker"]["args"].index("--directory") + 1]
    assert f"{directory}/envoy.json" in found["envoy"]["args"]
    assert "readinessProbe" not in found["picker"], "Envoy serves on without it"
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"a": "b"}
    assert added_violations(deployment["spec"]["template"], {"spec": {"containers": []}}, "restricted") == ()


def test_the_chart_grants_what_fronts_need_and_nothing_else() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text().partition('define "sponge.frontRules" -}}')[2]
    rules = yaml.safe_load(text.partition("{{- end -}}")[0].replace('{{ include "sponge.name" . }}', "sponge"))
    granted = {
        (group, name, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for name in rule["resources"]
        for verb in rule["verbs"]
    }
    used = {(*resource(kind), "delete") for kind in KINDS}
    for _, _, kind in FRONT_CHILDREN:
        used |= {(*resource(kind), verb) for verb in ("get", "list", "watch", "create", "patch")}
    assert granted == used | {("rbac.authorization.k8s.io", "clusterroles", "bind")}
    assert [rule["resourceNames"] for rule in rules if "bind" in rule["verbs"]] == [["sponge-front"]]
