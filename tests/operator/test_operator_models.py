"""SpongeService as data, with its quantities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.errors import SpongeError
from sponge_core.quantities import cores_text, cpu_quantity, parse_bytes, parse_cpu_milli, parse_time_s
from sponge_operator.resources.model import CpuRange, parse_service


def body(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "digits", "namespace": "team-a", "uid": "1", "generation": 2},
        "spec": {
            "model": {"name": "digits", "source": "digits://"},
            "slo": {"latency": "300ms"},
            "cpu": {"min": "250m", "max": 2, "step": "250m"},
            **spec,
        },
    }


def test_defaults_and_quantities() -> None:
    service = parse_service(body())
    assert service.key == "team-a/digits"
    assert (service.spec.cpu.min, service.spec.cpu.max, service.spec.cpu.step) == (250, 2000, 250)
    assert service.spec.cpu.startup is None
    assert service.spec.slo.latency == 0.3
    assert (service.spec.memory.base, service.spec.memory.per_batch_item) == (2**30, 2**24)
    assert service.spec.mode == "Auto"
    assert not service.paused


def test_names_of_the_manifest() -> None:
    spec = parse_service(
        body(
            memory={"base": "1Gi", "perBatchItem": "1Mi"},
            profile={"configMap": {"name": "p"}},
            planner={"lookBack": "2500ms"},
            slo={"latency": "1s", "target": 99.9, "classes": [{"name": "gold", "latency": "150ms"}]},
            tls={"secretName": "cert"},
            apiKeys={"secretName": "clients"},
        )
    ).spec
    assert spec.tls is not None
    assert spec.tls.secret_name == "cert"
    assert spec.api_keys is not None
    assert (spec.api_keys.secret_name, spec.api_keys.key) == ("clients", "keys")
    assert spec.memory.per_batch_item == 2**20
    assert spec.profile.config_map is not None
    assert (spec.profile.config_map.name, spec.profile.config_map.key) == ("p", "profile.yaml")
    assert spec.planner.look_back == 2.5
    assert spec.slo.classes[0].latency == 0.15


def test_accuracies_of_a_model_and_its_variants() -> None:
    spec = parse_service(
        body(
            model={
                "name": "net",
                "source": "file:///m/net.pt2",
                "accuracy": 0.76,
                "variants": [{"name": "small", "source": "file:///m/small.pt2", "accuracy": 0.69}],
            },
            slo={"latency": "1s", "accuracyFloor": 0.6, "classes": [{"name": "gold", "latency": "1s"}]},
        )
    ).spec
    assert (spec.model.accuracy, spec.model.variants[0].accuracy) == (0.76, 0.69)
    assert (spec.slo.accuracy_floor, spec.slo.classes[0].accuracy_floor) == (0.6, None)


def test_secrets_of_the_operator_stand_in_where_a_spec_names_none() -> None:
    plain, own = parse_service(body()), parse_service(body(tls={"secretName": "own"}))
    assert plain.with_defaults(None, None) is plain
    both = plain.with_defaults("cert", "clients").spec
    assert both.tls is not None
    assert both.api_keys is not None
    assert (both.tls.secret_name, both.api_keys.secret_name, both.api_keys.key) == ("cert", "clients", "keys")
    kept = own.with_defaults("cert", None).spec
    assert kept.tls is not None
    assert (kept.tls.secret_name, kept.api_keys) == ("own", None)


@pytest.mark.parametrize(("value", "paused"), [("true", True), ("false", False), ("", False), ("yes", True)])
def test_pause_annotation(value: str, paused: bool) -> None:
    manifest = body()
    manifest["metadata"]["annotations"] = {"serving.sponge.dev/paused": value}
    assert parse_service(manifest).paused is paused


@pytest.mark.parametrize(("text", "milli", "percent"), [("2", 2000, None), (2, 2000, None), ("50%", None, 50)])
def test_bounds_on_the_pace(text: str | int, milli: int | None, percent: int | None) -> None:
    cpu = {"min": 1, "max": 4, "maxGrow": text, "growCooldown": "500ms", "shrinkCooldown": "30s"}
    read = parse_service(body(cpu=cpu)).spec.cpu
    assert read.max_grow is not None
    assert (read.max_grow.milli, read.max_grow.percent) == (milli, percent)
    assert (read.grow_cooldown, read.shrink_cooldown) == (0.5, 30.0)


def test_an_unreadable_spec_names_the_field_and_the_fix() -> None:
    with pytest.raises(SpongeError, match=r"team-a/digits: spec\.cpu\.min: .*'a lot' is not a .*; apply the CRD"):
        parse_service(body(cpu={"min": "a lot", "max": 2}))


@pytest.mark.parametrize(
    ("text", "milli"),
    [("250m", 250), ("1", 1000), (2, 2000), ("1.5", 1500), ("0.1", 100), ("2000m", 2000), ("1e3m", 1000), ("1u", 1)],
)
def test_cpu(text: str | int, milli: int) -> None:
    assert parse_cpu_milli(text) == milli


@pytest.mark.parametrize("text", ["", "one", "1.2.3", "-1", "5Xi", "m"])
def test_not_a_quantity(text: str) -> None:
    with pytest.raises(SpongeError, match="write for example 250m"):
        parse_cpu_milli(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1Gi", 2**30), ("16Mi", 2**24), (1024, 1024), ("1k", 1000), ("512Ki", 2**19), ("2Ei", 2**61)],
)
def test_bytes(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("1.5s", 1.5), ("0ms", 0.0), ("10m", 600.0), ("2h", 7200.0)]
)
def test_time(text: str, expected: float) -> None:
    assert parse_time_s(text) == expected


@pytest.mark.parametrize("text", ["1d", "5", "", "1 s"])
def test_not_a_time(text: str) -> None:
    with pytest.raises(SpongeError, match="write for example 500ms"):
        parse_time_s(text)


@given(st.integers(1, 10**6))
def test_a_written_cpu_quantity_is_read_back(milli: int) -> None:
    assert parse_cpu_milli(cpu_quantity(milli)) == milli
    assert parse_cpu_milli(cores_text(milli)) == milli


@given(st.integers(10, 4000), st.integers(1, 1000), st.integers(0, 50), st.integers(0, 100_000))
def test_the_grid_stays_in_the_range(low: int, step: int, steps: int, milli: int) -> None:
    cpu = CpuRange.model_validate({"min": f"{low}m", "max": f"{low + steps * step}m", "step": f"{step}m"})
    size = cpu.sizes.at_most(milli)
    assert cpu.min <= size <= cpu.max
    assert (size - cpu.min) % cpu.step == 0
    assert size <= max(milli, cpu.min)
