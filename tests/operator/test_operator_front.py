"""The front of a service: its objects, kept and removed, and never somebody else's."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

import pytest
import yaml
from certificates_kit import Authority
from operator_cluster import Cluster
from test_operator_models import body
from test_operator_rights import resource

from sponge_cluster.chart import CHART
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.handlers import FRONT_CHILDREN
from sponge_operator.reconcile.front import RETRY_S, TROUBLE_S, FrontKeeper
from sponge_operator.resources.front_manifests import FRONT_LABEL, KINDS, FrontSettings, account_of, build_front
from sponge_operator.resources.manifests import SERVICE_LABEL
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.obstacles import Obstacle
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


async def test_a_front_that_cannot_be_had_is_refused() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster, OperatorSettings(front=FrontSettings(role="")))
    await kept.keep(service(front=FRONT), 0.0)
    assert kept.obstacle is not None
    assert (kept.obstacle.reason, "front.enabled=true" in kept.obstacle.message) == ("FrontRefused", True)
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


def options(container: Mapping[str, Any]) -> dict[str, str]:
    """The options of a container that name files, and each one's file."""
    words = container["args"]
    return {option: words[at + 1] for at, option in enumerate(words) if option.endswith("-file")}


def secrets_of(deployment: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, str]:
    """The Secrets that a container mounts, by their folders; with the keys, if not all."""
    volumes = {each["name"]: each.get("secret") for each in deployment["spec"]["template"]["spec"]["volumes"]}
    found = {}
    for mount in container["volumeMounts"]:
        if secret := volumes[mount["name"]]:
            keys = " ".join(item["key"] for item in secret.get("items", ()))
            found[mount["mountPath"]] = f"{secret['secretName']} {keys}".strip()
    return found


def test_tls_with_clients_is_the_proxys_and_follows_its_secret() -> None:
    tls = {"secretName": "edge", "clientCaSecret": "clients"}
    made = service(front={**FRONT, "tls": tls})
    deployment = build_front("Deployment", made, FrontSettings())
    found = containers(deployment)
    for name in ("prepare", "envoy"):
        assert secrets_of(deployment, found[name]) == {"/etc/sponge/tls": "edge", "/etc/sponge/client-ca": "clients"}
    assert options(found["prepare"]) == {
        "--tls-cert-file": "/etc/sponge/tls/tls.crt",
        "--tls-key-file": "/etc/sponge/tls/tls.key",
        "--tls-client-ca-file": "/etc/sponge/client-ca/ca.crt",
    }
    assert set(secrets_of(deployment, found["picker"]).values()) == {"digits-sponge-control"}
    assert all("subPath" not in mount for each in found.values() for mount in each["volumeMounts"])
    for kind in ("startupProbe", "readinessProbe"):
        assert found["envoy"][kind]["httpGet"]["scheme"] == "HTTPS", "with a certificate that it can use"
    ports = build_front("Service", made, FrontSettings())["spec"]["ports"]
    assert {port["appProtocol"] for port in ports} == {"https"}


def test_pods_with_tls_are_known_by_their_certificate_and_their_key_stays_with_them() -> None:
    deployment = build_front("Deployment", service(front=FRONT, tls={"secretName": "own"}), FrontSettings())
    found = containers(deployment)
    pods = {"/etc/sponge/pods-tls": "own tls.crt ca.crt"}
    assert secrets_of(deployment, found["envoy"]) == {"/etc/sponge/tls": "own"}, "no front is less than its pods"
    assert secrets_of(deployment, found["prepare"]) == {"/etc/sponge/tls": "own", **pods}
    assert secrets_of(deployment, found["picker"]).items() > pods.items()
    known = {"--pods-cert-file": "/etc/sponge/pods-tls/tls.crt", "--pods-ca-file": "/etc/sponge/pods-tls/ca.crt"}
    assert options(found["prepare"]).items() > known.items()
    assert options(found["picker"]).items() > known.items()
    own = service(front={**FRONT, "tls": {"secretName": "edge"}}, tls={"secretName": "own"})
    deployment = build_front("Deployment", own, FrontSettings())
    assert secrets_of(deployment, containers(deployment)["envoy"]) == {"/etc/sponge/tls": "edge"}


async def test_a_secret_that_fronts_cannot_use_is_told_and_looked_at_until_they_can() -> None:
    cluster = ClusterWithDeletes()
    kept = keeper(cluster)
    spec: dict[str, Any] = {"front": {**FRONT, "tls": {"secretName": "edge", "clientCaSecret": "clients"}}}
    await kept.keep(service(**spec), 0.0)
    assert kept.secret_trouble == Obstacle(
        "SecretMissing", "Secret 'edge' does not exist; create it in namespace 'team-a'"
    )
    assert (kept.obstacle, fronts(cluster)) == (None, set(KINDS)), "its pods wait, and nothing else does"
    pair = Authority().issue()
    data = {"tls.crt": base64.b64encode(pair.cert).decode(), "tls.key": base64.b64encode(b"no key").decode()}
    cluster.put("Secret", "edge")["data"] = data
    await kept.keep(service(**spec), kept.due_at())
    assert kept.secret_trouble is not None
    assert kept.secret_trouble.reason == "SecretInvalid"
    assert "tls.crt of Secret 'edge' and tls.key of Secret 'edge'" in kept.secret_trouble.message
    data["tls.key"] = base64.b64encode(pair.key).decode()
    cluster.put("Secret", "clients")["data"] = {"tls.crt": "eA=="}
    await kept.keep(service(**spec), kept.due_at())
    assert kept.secret_trouble == Obstacle("SecretMissing", "Secret 'clients' has no key 'ca.crt'; add it")
    cluster.objects["Secret", "clients"]["data"]["ca.crt"] = "eA=="
    await kept.keep(service(**spec), kept.due_at())
    assert kept.secret_trouble == Obstacle("SecretInvalid", "ca.crt of Secret 'clients': no certificates in PEM")
    cluster.objects["Secret", "clients"]["data"]["ca.crt"] = base64.b64encode(Authority().pem).decode()
    at = kept.due_at()
    await kept.keep(service(**spec), at)
    assert kept.secret_trouble is None
    assert kept.due_at() > at + TROUBLE_S, "without trouble, now and then is enough"
    cluster.silent.add("Secret")
    await kept.keep(service(2, **spec), at)
    assert kept.secret_trouble is None
    assert kept.due_at() == at + TROUBLE_S, "what could not be read is not taken for good"
    await kept.keep(service(3), at)
    assert kept.secret_trouble is None


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
