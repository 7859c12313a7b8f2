"""Scenarios: the shipped ones load, a broken one names its problem, and a seed repeats its schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sponge_profiles.profile import load_profile
from sponge_simulator.scenario import ScenarioError, load_scenario, scenario_names, service_ratios
from sponge_workload.arrivals import poisson_arrivals
from sponge_workload.bandwidth import BandwidthTrace

GOOD = {
    "name": "mine",
    "profile": "yolov5s-paper",
    "rate_rps": 10,
    "classes": [
        {"name": "tight", "share": 0.25, "slo_ms": 200, "payload_bytes": 1000},
        {"name": "loose", "share": 0.75, "slo_ms": 900, "payload_bytes": 50_000},
    ],
}


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_loads_and_names_a_shipped_profile(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.about
    load_profile(scenario.profile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_rps": -1}, "rate_rps: Input should be greater than 0"),
        ({"classes": []}, "classes: "),
        ({"classes": [{"share": 0.5, "slo_ms": 100, "payload_bytes": 1}]}, "add up to 0.5: make them 1"),
        ({"classes": [{"slo_ms": 0, "payload_bytes": 1}]}, r"classes.0.slo_ms: .*greater than 0"),
        ({"cores": {"min": 4, "max": 2}}, "min 4 is above max 2: swap them"),
        ({"cores": {"min": 1, "max": 2, "step": 0.3}}, "step 0.3 does not divide"),
        ({"cores": {"idle": 2}}, "idle 2 is above min 1: lower it"),
        ({"steps": [{"from_s": 9, "times": 2}, {"from_s": 3, "times": 1}]}, "ascending in from_s: sort them"),
        ({"steps": [{"from_s": 9, "times": 0}]}, r"steps.0.times: .*greater than 0"),
        ({"resize_ms": [5, 4, 3, 2, 1]}, "five ascending quantiles"),
        ({"speed": 3}, "speed: Extra inputs are not permitted"),
    ],
)
def test_a_broken_scenario_says_what_is_wrong(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ScenarioError, match=message):
        load_scenario(str(path))


def test_a_missing_or_unreadable_scenario_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no-such.*give a file or one of .*paper"):
        load_scenario("no-such")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(ScenarioError, match="is not valid YAML"):
        load_scenario(str(tmp_path / "x.yaml"))


def test_the_network_is_charged_and_classes_have_their_shares(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    scenario = load_scenario(str(path))
    uplink = BandwidthTrace("steady", (100_000.0,), (1.0,))
    sent = poisson_arrivals(50, 100, 1)
    requests = scenario.requests(sent, uplink, 1)
    assert requests == scenario.requests(sent, uplink, 1)
    assert [r.arrival for r in requests] == sorted(r.arrival for r in requests)
    assert {(r.slo_class, round(r.arrival - r.sent, 6), round(r.deadline - r.sent, 6)) for r in requests} == {
        ("tight", 0.01, 0.2),
        ("loose", 0.5, 0.9),
    }
    assert sum(r.slo_class == "tight" for r in requests) / len(requests) == pytest.approx(0.25, abs=0.03)


def test_the_rate_changes_by_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"steps": [{"from_s": 20, "times": 4}, {"from_s": 40, "times": 0.5}]}))
    scenario = load_scenario(str(path))
    assert scenario.peak_rps == 40
    sent = [r.sent for r in scenario.requests(poisson_arrivals(scenario.peak_rps, 100, 1), None, 1)]
    rates = [sum(start <= at < end for at in sent) / (end - start) for start, end in ((0, 20), (20, 40), (40, 100))]
    assert rates == pytest.approx([10, 40, 5], rel=0.15)


def test_service_times_err_as_the_profile_did() -> None:
    error = load_profile("yolov5s-paper").error
    draw = service_ratios(error, 1)
    drawn = sorted(draw() for _ in range(5000))
    assert drawn[2500] == pytest.approx(1 + error.p50, abs=0.02)
    assert drawn[4500] == pytest.approx(1 + error.p90, abs=0.03)
    assert drawn[-1] <= 1 + error.max
