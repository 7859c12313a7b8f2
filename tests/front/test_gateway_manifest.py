"""The manifest for gateways of somebody else: its parts fit each other, the chart and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sponge_cli.front import run
from sponge_operator.resources.front_manifests import FRONT_LABEL, FrontSettings
from sponge_operator.resources.manifests import GRPC_PORT, HTTP_PORT, SERVICE_LABEL, secret_name
from sponge_operator.resources.model import parse_service
from sponge_operator.resources.pod_security import added_violations

PATH = Path(__file__).parents[2] / "deploy/gateway/inference-pool.yaml"
DOCUMENTS: dict[str, Any] = {each["kind"]: each for each in yaml.safe_load_all(PATH.read_text())}
POD = DOCUMENTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
NAME = "resnet18"


def named_port(name: str) -> int:
    """The number of a port of the container."""
    return next(int(port["containerPort"]) for port in CONTAINER["ports"] if port["name"] == name)


def test_the_pool_has_the_pods_and_names_the_picker() -> None:
    pool, service = DOCUMENTS["InferencePool"]["spec"], DOCUMENTS["Service"]
    assert pool["selector"]["matchLabels"] == {SERVICE_LABEL: NAME}
    assert pool["targetPorts"] == [{"number": HTTP_PORT}]
    assert str(GRPC_PORT) in PATH.read_text()
    (port,) = service["spec"]["ports"]
    picker = pool["endpointPickerRef"]
    assert (picker["name"], picker["port"]["number"]) == (service["metadata"]["name"], port["port"])
    assert service["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
    (rule,) = DOCUMENTS["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [
        {
            "group": DOCUMENTS["InferencePool"]["apiVersion"].partition("/")[0],
            "kind": "InferencePool",
            "name": DOCUMENTS["InferencePool"]["metadata"]["name"],
        }
    ]


def test_the_command_takes_the_arguments_and_listens_where_it_is_asked() -> None:
    assert CONTAINER["args"][:2] == ["front", "run"]
    options = run.make_context("run", CONTAINER["args"][2:]).params
    assert options["service"] == NAME
    assert options["picker_address"].rpartition(":")[2] == str(named_port("grpc"))
    assert options["status_port"] == named_port("picker")
    mounts = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    token = volumes[mounts[str(options["token_file"].parent)]]["secret"]["secretName"]
    body = {"metadata": {"name": NAME, "namespace": "n", "uid": "u"}}
    spec = {"model": {"name": "m", "source": "digits://"}, "slo": {"latency": "1s"}, "cpu": {"min": "1", "max": "1"}}
    assert token == secret_name(parse_service({**body, "spec": spec}))
    assert str(options["directory"]) in mounts


def test_it_has_the_rights_of_a_front_and_no_more() -> None:
    binding = DOCUMENTS["RoleBinding"]
    assert binding["roleRef"]["name"] == FrontSettings().role
    (subject,) = binding["subjects"]
    assert {subject["name"], POD["spec"]["serviceAccountName"]} == {DOCUMENTS["ServiceAccount"]["metadata"]["name"]}
    assert added_violations(POD, {"spec": {"containers": []}}, "restricted") == ()
    # The NetworkPolicy of the servers lets it in, and the operator does not take it for a front of its own.
    assert POD["metadata"]["labels"][FRONT_LABEL] != NAME
