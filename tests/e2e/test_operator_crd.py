"""SpongeService at the real API server: good manifests are taken, bad ones refused in words that name the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_kit import Kubectl

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
REFUSED = yaml.safe_load((Path(__file__).parent / "data" / "operator_refused.yaml").read_text())
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def crd(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds" / "spongeservice.yaml"))
    kubectl("wait", "--for=condition=Established", "crd/spongeservices.serving.sponge.dev", "--timeout=30s")


def good() -> dict[str, Any]:
    return {
        "apiVersion": "serving.sponge.dev/v1alpha1",
        "kind": "SpongeService",
        "metadata": {"name": "digits", "namespace": "default"},
        "spec": {
            "model": {"name": "digits", "source": "digits://"},
            "slo": {"latency": "300ms"},
            "cpu": {"min": "250m", "max": 2, "step": "250m"},
        },
    }


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["why"].replace(" ", "-"))
def test_refused(kubectl: Kubectl, case: dict[str, Any]) -> None:
    manifest = merged(good(), {key: case[key] for key in ("metadata", "spec") if key in case})
    for field in case.get("remove", ()):
        del manifest["spec"][field]
    with pytest.raises(AssertionError) as refusal:
        kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", document=manifest)
    assert case["says"] in str(refusal.value)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"cpu": {"min": 1, "max": 16, "step": None}},
        {"cpu": {"min": "0.5", "max": "2", "step": "0.25", "startup": "1.5"}},
        {"cpu": {"min": "1", "max": "1"}},
        {"cpu": {"min": "1", "max": "2", "step": "1", "startup": "500m"}},
        {"cpu": {"min": "125m", "max": "500m", "step": "125m", "startup": "1"}},
        {"cpu": {"min": "1", "max": "16", "step": "1", "startup": "16"}},
        {"cpu": {"min": "1", "max": "2", "step": "1", "idle": "50m", "idleAfter": "90s"}},
        {"slo": {"latency": "1.5s", "target": 99.95, "classes": [{"name": "gold", "latency": "150ms"}]}},
        {
            "model": {"accuracy": 1, "variants": [{"name": "small", "source": "digits://", "accuracy": 0.9}]},
            "slo": {"accuracyFloor": 0.8, "classes": [{"name": "bulk", "latency": "2s", "accuracyFloor": 0.5}]},
        },
        {"replicas": {"min": 3, "max": 3}},
        {"replicas": {"max": 5}},
        {"replicas": {"min": 0}, "idle": {"removeAfter": "10m"}},
        {"profile": {"configMap": {"name": "p"}}},
        {"profile": {"inline": {"gamma": 0.1}}},
        {"planner": {"policy": "paper"}},
        {"mode": "Off", "planner": {"lookBack": "2500ms"}},
        {"template": {"spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "server", "image": "mine"}]}}},
    ],
    ids=lambda spec: "-".join(spec) or "plain",
)
def test_taken(kubectl: Kubectl, spec: dict[str, Any]) -> None:
    kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", document=merged(good(), {"spec": spec}))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_taken(kubectl: Kubectl, example: Path) -> None:
    kubectl("create", "--dry-run=server", "--validate=strict", "-f", str(example))


def test_defaults(kubectl: Kubectl) -> None:
    made = json.loads(kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", document=good()))
    assert made["spec"] == {
        "model": {"name": "digits", "source": "digits://"},
        "slo": {"latency": "300ms", "target": 99, "weight": 1},
        "cpu": {"min": "250m", "max": 2, "step": "250m"},
        "memory": {"base": "1Gi", "perBatchItem": "16Mi", "inPlace": False},
        "batch": {"max": 8},
        "replicas": {"min": 1, "max": 1},
        "profile": {"from": "auto"},
        "mode": "Auto",
        "planner": {"policy": "projected", "lookBack": "1s", "fallbackAfter": "60s"},
    }


def test_every_field_is_explained(kubectl: Kubectl) -> None:
    text = kubectl("explain", "spongeservice.spec", "--recursive")
    assert "lookBack" in text
    document = yaml.safe_load((ROOT / "crds" / "spongeservice.yaml").read_text())
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert not list(undescribed(schema, "spec"))


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    missing = [] if schema.get("description") else [path]
    for name, child in schema.get("properties", {}).items():
        missing += undescribed(child, f"{path}.{name}")
    for name, child in schema.get("items", {}).get("properties", {}).items():
        missing += undescribed(child, f"{path}[].{name}")
    return missing
