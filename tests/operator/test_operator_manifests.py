"""The children of a SpongeService: one folder for each case in data/manifests, and rules for all cases."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sponge_operator.resources.manifests import (
    build_config_map,
    build_deployment,
    build_secret,
    build_service,
    startup_milli,
    token_of,
)
from sponge_operator.resources.model import SpongeService, parse_service
from sponge_operator.resources.source_entries import sources_of

CASES = sorted((Path(__file__).parent / "data" / "manifests").iterdir())
PLAIN = Path(__file__).parent / "data" / "manifests" / "plain" / "service.yaml"


def service_with(**spec: Any) -> SpongeService:
    body = yaml.safe_load(PLAIN.read_text())
    body["spec"].update(spec)
    return parse_service(body)


def deployment_of(service: SpongeService, startup: int = 1000) -> dict[str, Any]:
    return build_deployment(service, startup, "sponge-server:1", {}, "k")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path) -> None:
    service = parse_service(yaml.safe_load((case / "service.yaml").read_text()))
    template_file = case / "server-template.yaml"
    template = yaml.safe_load(template_file.read_text()) if template_file.exists() else {}
    before = copy.deepcopy(template)
    built = [
        build_config_map(service, startup_milli(service.spec, None), {"k": service.spec.model.source}),
        build_secret(service, "s3cret"),
        build_deployment(service, startup_milli(service.spec, None), "sponge-server:1", template, "k"),
        build_service(service),
    ]
    assert built == list(yaml.safe_load_all((case / "expected.yaml").read_text()))
    assert template == before, "the operator's template is shared by all services"


def test_token_survives_the_secret() -> None:
    assert token_of(build_secret(service_with(), "a token")) == "a token"


def test_a_new_range_does_not_replace_the_pods() -> None:
    low = service_with(cpu={"min": "500m", "max": "2", "step": "500m"})
    high = service_with(cpu={"min": "2", "max": "8", "step": "2"})
    running = deployment_of(low, startup_milli(low.spec, None))
    startup = startup_milli(high.spec, running)
    assert deployment_of(high, startup)["spec"]["template"] == running["spec"]["template"]
    assert build_config_map(high, startup, {})["data"] == {
        "startup-cores": "2",
        "min-cores": "2",
        "max-cores": "8",
        "step-cores": "2",
    }


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"min": "250m", "max": "8", "step": "250m"}, 1000),
        ({"min": "2", "max": "8"}, 2000),
        ({"min": "250m", "max": "750m", "step": "250m"}, 750),
        ({"min": "250m", "max": "8", "step": "250m", "startup": "4"}, 4000),
        ({"min": "250m", "max": "750m", "step": "250m", "startup": "2"}, 750),
    ],
)
def test_new_pods_start_with_a_core_inside_the_range(cpu: dict[str, str], expected: int) -> None:
    assert startup_milli(service_with(cpu=cpu).spec, None) == expected


def test_a_startup_size_above_the_range_is_not_kept() -> None:
    running = deployment_of(service_with(), 1000)
    assert startup_milli(service_with(cpu={"min": "250m", "max": "500m", "step": "250m"}).spec, running) == 500


def test_another_entry_replaces_the_pods_and_another_source_does_not() -> None:
    other = service_with(model={"name": "digits", "source": "file:///models/digits.pt2"})
    plain = deployment_of(service_with())
    assert deployment_of(other)["spec"]["template"] == plain["spec"]["template"]
    rolled = build_deployment(other, 1000, "sponge-server:1", {}, "l")
    assert rolled["spec"]["template"] != plain["spec"]["template"]
    assert rolled["metadata"]["annotations"] != plain["metadata"]["annotations"]
    config_map = build_config_map(other, 1000, {"k": "digits://", "l": "file:///models/digits.pt2"})
    assert sources_of(config_map) == {"k": "digits://", "l": "file:///models/digits.pt2"}


def test_variants_and_floors_become_options_of_the_server() -> None:
    model = {"name": "net", "source": "digits://", "accuracy": 0.9}
    small = {"name": "small", "source": "digits://?x=1,2", "accuracy": 0.8}
    slo = {"latency": "1s", "classes": [{"name": "bulk", "latency": "2s", "accuracyFloor": 0.75}]}
    arguments = server_arguments(service_with(model=model | {"variants": [small]}, slo=slo | {"accuracyFloor": 0.85}))
    values = [arguments[at + 1] for at, word in enumerate(arguments) if word in ("--variant", "--accuracy")]
    assert values == ["small=digits://?x=1,2", "net=0.9", "small=0.8"]
    floors = [arguments[at + 1] for at, word in enumerate(arguments) if word == "--accuracy-floor"]
    assert floors == ["default=0.85", "bulk=0.75"]
    without = server_arguments(service_with(model=model, slo=slo))
    assert not {"--variant", "--accuracy", "--accuracy-floor"} & set(without)


def server_arguments(service: SpongeService) -> list[str]:
    found: list[str] = deployment_of(service)["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def test_another_inline_profile_replaces_the_pods() -> None:
    first, second = (service_with(profile={"from": "auto", "inline": {"gamma": gamma}}) for gamma in (1, 2))
    assert deployment_of(first)["spec"]["template"] != deployment_of(second)["spec"]["template"]


def test_no_template_removes_what_the_operator_depends_on() -> None:
    hostile = {
        "metadata": {"labels": {"serving.sponge.dev/service": "other"}},
        "spec": {"containers": [{"name": "server", "resources": {"limits": {"cpu": "9"}}, "resizePolicy": []}]},
    }
    template = build_deployment(service_with(), 1000, "image", hostile, "k")["spec"]["template"]
    container = template["spec"]["containers"][0]
    assert template["metadata"]["labels"]["serving.sponge.dev/service"] == "digits"
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["resources"]["limits"]["cpu"] == "1"
    assert {p["restartPolicy"] for p in container["resizePolicy"]} == {"NotRequired"}
