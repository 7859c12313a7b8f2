"""Scenarios whose requests differ in size: drawn, planned with, and bounded."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
import yaml

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_profiles.points import GridPoint, SizedPoint
from sponge_profiles.profile import Profile
from sponge_simulator.comparison import clairvoyant_summary, run_policy, summarize
from sponge_simulator.experiment import Experiment, run_experiment
from sponge_simulator.scenario import Cores, RowSizes, Scenario, ScenarioError, SloClass
from sponge_workload.arrivals import poisson_arrivals

SIZES = RowSizes(mu=4.0, sigma=0.9, least=8, most=400)


def latency_ms(batch: int, threads: int, size: float) -> float:
    """Of the small BERT of `bench.experiments.sizes`."""
    return batch * (0.212 * size + 0.267e-3 * size**2) / threads + 0.44 / threads + 8.8


def of_texts() -> Profile:
    points = [
        GridPoint(batch=batch, threads=threads, p50_ms=time, p95_ms=time)
        for batch in (1, 4, 8)
        for threads in (1, 2)
        if (time := latency_ms(batch, threads, 57))
    ]
    plain = Profile.from_points(
        points, name="texts", model="texts", source="virtual", machine="none", percentile=95, origin="fitted"
    )
    sized = [
        SizedPoint(batch=batch, threads=threads, size=size, p50_ms=latency_ms(batch, threads, size))
        for batch in (1, 4)
        for threads in (1, 2)
        for size in (8, 21, 57, 150, 400)
    ]
    return plain.with_sizes(sized, 57, "padded")


PROFILE = of_texts()


def scenario(sizes: RowSizes | None = SIZES, rate_rps: float = 30.0) -> Scenario:
    return Scenario(
        name="texts",
        profile="texts",
        rate_rps=rate_rps,
        duration_s=40.0,
        bandwidth="none",
        classes=(
            SloClass(name="tight", share=0.5, slo_ms=200, payload_bytes=0),
            SloClass(name="loose", share=0.5, slo_ms=1000, payload_bytes=0),
        ),
        sizes=sizes,
        cores=Cores(min=0.25, max=4.0, step=0.25),
    )


def requests(of: Scenario, seed: int = 1) -> list[Request]:
    return of.requests(poisson_arrivals(of.rate_rps, of.duration_s, seed), None, seed)


def test_sizes_are_drawn_from_the_range_and_change_nothing_else() -> None:
    with_sizes, without = requests(scenario()), requests(scenario(sizes=None))
    assert [(r.arrival, r.deadline, r.slo_class) for r in with_sizes] == [
        (r.arrival, r.deadline, r.slo_class) for r in without
    ]
    sizes = [request.size for request in with_sizes]
    assert min(sizes) >= 8
    assert max(sizes) <= 400
    assert 40 < median(sizes) < 75  # exp(4.0) is 55
    assert requests(scenario()) == with_sizes


def test_whoever_knows_the_sizes_misses_less_than_whoever_takes_requests_for_equal() -> None:
    knows, blind = (
        summarize([run_policy(name, scenario(), PROFILE, requests(scenario()), 1, exact=True)])
        for name in ("static-2@moldable-edf", "static-2@fifo")
    )
    assert knows.violations < 0.01
    assert blind.violations > 5 * knows.violations


def test_the_bound_stays_below_every_policy_without_a_miss() -> None:
    of = scenario(rate_rps=12.0)
    schedule = requests(of)
    bound = clairvoyant_summary(of, PROFILE, [schedule]).core_seconds
    for name in ("sponge", "static-2@moldable-edf", "static-4"):
        found = summarize([run_policy(name, of, PROFILE, schedule, 1, exact=True)])
        if found.violations == 0:
            assert bound <= found.core_seconds
    assert bound > 0.25 * of.duration_s


@pytest.mark.parametrize("policy", ["sponge", "sponge-paper", "hybrid", "vpa", "fa2", "captain-0.1"])
def test_every_policy_runs_with_sizes(policy: str) -> None:
    found = summarize([run_policy(policy, scenario(), PROFILE, requests(scenario()), 1, exact=False)])
    assert found.sent == found.in_time + found.late + found.shed


def test_a_profile_with_sizes_serves_requests_that_have_none_as_its_reference() -> None:
    service = scenario(sizes=None).service(PROFILE.latency_model())
    assert service.model.sizes is None
    assert service.model.latency(1, 1) == pytest.approx(PROFILE.latency_model().at(57).latency(1, 1))


def test_a_profile_without_sizes_is_refused_with_the_fix() -> None:
    with pytest.raises(ScenarioError, match="measure one of a model that declares them with `sponge profile`"):
        scenario().service(LatencyModel(1e-3, 0.0, 0.0, 1e-3))


def test_a_file_has_sizes(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "texts.yaml")
    content = scenario(rate_rps=5.0).model_dump(mode="json") | {"profile": str(tmp_path / "texts.yaml")}
    file = tmp_path / "scenario.yaml"
    file.write_text(yaml.safe_dump(content))
    experiment = Experiment(str(file), ["sponge", "clairvoyant"], 1, 1, True, {})
    found = run_experiment(experiment, {}, lambda *_: None)
    assert [summary.policy for summary in found.policies] == ["sponge", "clairvoyant"]
    file.write_text(yaml.safe_dump(content | {"sizes": {"mu": 4, "sigma": 1, "least": 9, "most": 8}}))
    with pytest.raises(ScenarioError, match="sizes: least 9 is above most 8: swap them"):
        run_experiment(experiment, {}, lambda *_: None)
