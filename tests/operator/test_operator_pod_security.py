"""Templates of services keep to Pod Security: every rule of the standard, and what the operator's own template adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from operator_cluster import Cluster
from test_operator_models import body

from sponge_operator.clients.kube import Kube
from sponge_operator.clients.tokens import Tokens
from sponge_operator.clients.trust import Trust
from sponge_operator.reconcile.workload import Workload
from sponge_operator.resources.manifests import build_deployment
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.pod_security import Level, added_violations, violations
from sponge_operator.settings import OperatorSettings

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "data" / "pod_security.yaml").read_text())
BAD = "spec.containers[helper].securityContext"


def service(template: dict[str, Any], generation: int = 1) -> SpongeService:
    manifest = body(template=template)
    manifest["metadata"]["generation"] = generation
    return parse_service(manifest)


def pods(template: dict[str, Any], trusted: dict[str, Any] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = build_deployment(service(template), 1000, "sponge-server:1", trusted or {}, "k")
    return cast(dict[str, Any], made["spec"]["template"])


def added(template: dict[str, Any], trusted: dict[str, Any], level: Level = "restricted") -> set[str]:
    return {one.field for one in added_violations(pods(template, trusted), pods({}, trusted), level)}


@pytest.mark.parametrize("level", ["restricted", "baseline", "privileged"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["why"].replace(" ", "-"))
def test_rules(case: dict[str, Any], level: Level) -> None:
    assert {one.field for one in violations(pods(case["template"]), level)} == set(case.get(level, ()))


def test_containers_for_debugging_are_checked_too() -> None:
    template = {"spec": {"ephemeralContainers": [{"name": "debug", "securityContext": {"privileged": True}}]}}
    assert "spec.ephemeralContainers[debug].securityContext.privileged" in {
        one.field for one in violations(template, "baseline")
    }


@pytest.mark.parametrize("value", ["true", 1, "false", []])
def test_a_value_of_another_type_is_no_way_around(value: object) -> None:
    template = {
        "spec": {"hostNetwork": value, "containers": [{"name": "server", "securityContext": {"runAsUser": 0.0}}]}
    }
    found = {one.field for one in violations(template, "restricted")}
    assert {"spec.hostNetwork", "spec.containers[server].securityContext.runAsUser"} <= found


KEYS = (
    *("annotations", "containers", "initContainers", "securityContext", "capabilities", "add", "volumes", "hostPath"),
    *("ports", "hostPort", "name", "livenessProbe", "httpGet", "host", "seccompProfile"),
)
ANYTHING = st.recursive(
    st.sampled_from([None, True, False, 0, 1, "", "x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata"]), ANYTHING))
def test_whatever_stands_in_a_template_can_be_checked(template: dict[str, Any]) -> None:
    strict, loose = ({one.field for one in violations(template, level)} for level in ("restricted", "baseline"))
    assert loose <= strict
    assert added_violations(template, template, "restricted") == ()


ROOT = {"spec": {"securityContext": {"runAsNonRoot": False, "runAsUser": 0}}}
HOST = {
    "spec": {
        "volumes": [{"name": "host", "hostPath": {"path": "/models"}}],
        "containers": [
            {"name": "server", "volumeMounts": [{"name": "host", "mountPath": "/models", "readOnly": True}]}
        ],
    }
}
AGENT = {
    "spec": {"containers": [{"name": "agent", "image": "agent:1", "securityContext": {"privileged": True}}]},
}
HELPER = {"name": "helper", "image": "helper:1"}
GOOD = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize(
    ("trusted", "template", "expected"),
    [
        (ROOT, {}, set()),
        (ROOT, {"spec": {"nodeSelector": {"disk": "fast"}}}, set()),
        (ROOT, {"spec": {"containers": [{"name": "server", "env": [{"name": "A", "value": "b"}]}]}}, set()),
        # Root is for the program that the operator's template runs so.
        (ROOT, {"spec": {"containers": [{"name": "server", "image": "mine"}]}},
         {"spec.containers[server].securityContext.runAsNonRoot"}),
        (ROOT, {"spec": {"containers": [{**HELPER, "securityContext": GOOD}]}}, {f"{BAD}.runAsNonRoot"}),
        (ROOT, {"spec": {"containers": [{**HELPER, "securityContext": {**GOOD, "runAsNonRoot": True}}]}}, set()),
        (HOST, {}, set()),
        (HOST, {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}}, {"spec.volumes[host].hostPath"}),
        (HOST, {"spec": {"containers": [{"name": "server", "volumeMounts": [
            {"name": "host", "mountPath": "/models", "readOnly": False}]}]}}, {"spec.volumes[host].hostPath"}),
        (HOST, {"spec": {"containers": [{**HELPER, "securityContext": GOOD, "volumeMounts": [
            {"name": "host", "mountPath": "/host"}]}]}}, {"spec.volumes[host].hostPath"}),
        (AGENT, {"spec": {"containers": [{"name": "agent", "resources": {"limits": {"cpu": "1"}}}]}}, set()),
        (AGENT, {"spec": {"containers": [{"name": "agent", "command": ["sh"]}]}}, {
            f"spec.containers[agent].securityContext.{field}"
            for field in ("privileged", "allowPrivilegeEscalation", "capabilities.drop")}),
    ],
)  # fmt: skip
def test_what_the_operators_template_has_is_allowed_to_it_alone(
    trusted: dict[str, Any], template: dict[str, Any], expected: set[str]
) -> None:
    assert added(template, trusted) == expected


def kept(cluster: Cluster, **settings: Any) -> Workload:
    return Workload(cast(Kube, cluster), service({}), OperatorSettings(**settings), Tokens(), Trust())


def reason(workload: Workload) -> str | None:
    return None if workload.obstacle is None else workload.obstacle.reason


async def test_a_service_that_asks_for_more_gets_no_pods_and_is_told_each_field() -> None:
    cluster = Cluster()
    workload = kept(cluster)
    await workload.keep(service({"spec": {"hostNetwork": True, "containers": [HELPER]}}), 0.0)
    assert (reason(workload), workload.is_current) == ("ViolatesPodSecurity", False)
    for field in ("spec.hostNetwork", f"{BAD}.allowPrivilegeEscalation", f"{BAD}.capabilities.drop"):
        assert f"{field} must" in str(workload.obstacle)
    assert ("Deployment", "digits") not in cluster.objects
    assert ("Service", "digits") in cluster.objects
    await workload.keep(service({}, generation=2), 1.0)
    assert (reason(workload), workload.is_current) == (None, True)


async def test_an_edit_that_asks_for_more_leaves_the_pods_that_run() -> None:
    cluster = Cluster()
    workload = kept(cluster)
    await workload.keep(service({}), 0.0)
    before = cluster.objects["Deployment", "digits"]
    await workload.keep(service({"spec": {"hostPID": True}}, generation=2), 1.0)
    assert (reason(workload), workload.is_current) == ("ViolatesPodSecurity", False)
    assert workload.deployment is not None
    assert cluster.objects["Deployment", "digits"] == before


async def test_the_operator_may_allow_more() -> None:
    for level, is_made in (("baseline", True), ("privileged", True), ("restricted", False)):
        cluster = Cluster()
        await kept(cluster, template_security=level).keep(service({"spec": {"containers": [HELPER]}}), 0.0)
        assert (("Deployment", "digits") in cluster.objects) == is_made


async def test_a_template_that_cannot_be_merged_is_not_current() -> None:
    cluster = Cluster()
    workload = kept(cluster)
    await workload.keep(service({}), 0.0)
    await workload.keep(service({"spec": {"containers": {"server": {}}}}, generation=2), 1.0)
    assert (reason(workload), workload.is_current) == ("InternalError", False)
