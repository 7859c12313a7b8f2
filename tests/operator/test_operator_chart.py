"""The chart: its copies equal their sources, its roles are small, and its dashboards use existing metrics only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from sponge_cluster import PythonPod
from sponge_cluster.chart import CHART, local_values
from sponge_front.metrics import FrontMetrics
from sponge_operator.metrics import Metrics
from sponge_server.observability.metrics import Metrics as ServerMetrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize(
    ("source", "shipped"),
    [
        ("crds/spongeservice.yaml", "crds/spongeservice.yaml"),
        ("deploy/grafana/sponge.json", "files/sponge.json"),
        ("deploy/prometheus/alerts.yaml", "files/alerts.yaml"),
    ],
)
def test_the_chart_ships_a_copy_of_the_source(source: str, shipped: str) -> None:
    assert (CHART / shipped).read_text() == (ROOT / source).read_text(), f"copy {source} to {CHART / shipped}"


def test_every_value_has_its_schema() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        properties = schema.get("properties")
        if properties is None:
            return
        assert set(values) <= set(properties), path
        for key, value in values.items():
            if isinstance(value, dict):
                compare(value, properties[key], f"{path}.{key}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(values, schema, "values")
    assert set(schema["properties"]) == {*values, "global"}


def test_the_values_of_the_local_cluster_match_the_schema() -> None:
    pod = PythonPod(
        "sponge.local/python:host", "Never", ("python",), ({"name": "v"},), ({"name": "v", "mountPath": "/v"},)
    )
    values = local_values(pod)
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) <= set(schema["properties"])
    assert values["image"] == {"repository": "sponge.local/python", "tag": "host", "pullPolicy": "Never"}
    assert values["server"]["template"]["spec"]["containers"][0]["name"] == "server"


def metric_names() -> set[str]:
    registries = [Metrics(CollectorRegistry()).registry, ServerMetrics().registry, FrontMetrics().registry]
    names = set()
    for registry in registries:
        for family in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + suffix for suffix in suffixes}
    return names


def metrics_used(path: str) -> set[str]:
    """Names of the metrics in all expressions of a file."""
    document = yaml.safe_load((DEPLOY / path).read_text())

    def expressions(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [value for key, value in node.items() if key == "expr"]
            return own + [expr for value in node.values() for expr in expressions(value)]
        return [expr for value in node for expr in expressions(value)] if isinstance(node, list) else []

    return {name for expr in expressions(document) for name in re.findall(r"\b(?:sponge|process)_\w+", expr)}


@pytest.mark.parametrize("path", ["grafana/sponge.json", "prometheus/alerts.yaml"])
def test_dashboards_and_alerts_use_only_existing_metrics(path: str) -> None:
    used = metrics_used(path)
    assert used
    assert used <= metric_names()


def test_every_metric_of_a_server_is_drawn() -> None:
    drawn = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in metrics_used("grafana/sponge.json")}
    families = {family.name for family in ServerMetrics().registry.collect() if family.name.startswith("sponge_")}
    assert families - drawn == set()


def test_the_roles_name_no_wildcard() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    rules = helpers.partition('define "sponge.rules"')[2].partition("{{- end -}}")[0]
    assert "verbs" in rules
    assert "*" not in rules
    for template in ("rbac.yaml", "user-roles.yaml", "uninstall.yaml"):
        assert not re.search(r"(verbs|resources|apiGroups): .*\*", (CHART / "templates" / template).read_text())


def test_images_run_without_root_and_name_no_package_index() -> None:
    for dockerfile in (DEPLOY / "docker").glob("*.Dockerfile"):
        text = dockerfile.read_text()
        assert "USER 65532:65532" in text
        assert not re.search(r"https?://", text)
