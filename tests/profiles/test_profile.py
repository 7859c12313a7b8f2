"""Profiles: the shipped ones, the checks of a file, and what the fit recovers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.errors import ProfileError, SpongeError
from sponge_core.latency import LatencyModel
from sponge_profiler.plots import check_path, save_plot
from sponge_profiles.fitting import Point, fit, judge
from sponge_profiles.points import GridPoint
from sponge_profiles.profile import Profile, load_profile, profile_names

GRID = [(b, k) for b in (1, 2, 4, 8) for k in (1, 2, 4)]


@cache
def valid() -> Mapping[str, Any]:
    points = [GridPoint(batch=b, threads=k, p95_ms=10 * b / k + 3) for b, k in GRID]
    profile = Profile.from_points(points, name="t", model="T", source="test", machine="test", percentile=95)
    data: dict[str, Any] = yaml.safe_load(profile.to_yaml())
    return MappingProxyType(data)


@pytest.mark.parametrize("name", profile_names())
def test_every_shipped_profile_states_its_own_error(name: str) -> None:
    profile = load_profile(name)
    quality = profile.quality()
    assert profile.name == name
    assert profile.mape_percent == pytest.approx(quality.mape_percent, abs=0.02)
    assert profile.r2 == pytest.approx(quality.r2, abs=2e-4)
    if profile.form == "formula":
        assert profile.error.p90 == pytest.approx(quality.error_p90, abs=2e-4)


@pytest.mark.parametrize("name", [n for n in profile_names() if load_profile(n).origin != "published"])
def test_every_fit_of_ours_can_be_repeated_from_its_points(name: str) -> None:
    profile = load_profile(name)
    again = Profile.from_points(
        profile.points,
        name=profile.name,
        model=profile.model,
        source=profile.source,
        machine=profile.machine,
        percentile=profile.percentile,
        origin="fitted" if profile.origin == "fitted" else "measured",
        form=profile.form,
        cross_validated=True,
        interference=profile.interference,
        max_batch=profile.max_batch,
    )
    assert again.error.model_dump() == pytest.approx(profile.error.model_dump(), abs=1e-3)
    assert again.validation == profile.validation
    assert again.coefficients_ms.model_dump() == pytest.approx(profile.coefficients_ms.model_dump(), rel=1e-3, abs=1e-3)


def test_the_published_fits_meet_their_tables_as_published() -> None:
    paper = load_profile("yolov5s-paper")
    assert (paper.r2, paper.mape_percent) == (0.9947, pytest.approx(5.6, abs=0.05))
    assert paper.latency_model().epsilon == pytest.approx(-0.0508415)


@pytest.mark.parametrize("name", ["yolov5s", "yolov5n", "resnet18"])
def test_our_fit_is_physical_and_closer_in_relative_terms(name: str) -> None:
    ours, paper = load_profile(name), load_profile(f"{name}-paper")
    assert min(ours.coefficients_ms.model_dump().values()) >= 0
    assert ours.mape_percent is not None
    assert paper.mape_percent is not None
    assert ours.mape_percent < paper.mape_percent


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"no profile 'nope' .*resnet18, .*yolov5s-paper, or measure one"):
        load_profile("nope")
    with pytest.raises(ProfileError, match="Is a directory"):
        load_profile(str(tmp_path))


def test_written_and_read_again(tmp_path: Path) -> None:
    profile = load_profile("resnet18")
    profile.save(tmp_path / "p.yaml")
    assert load_profile(str(tmp_path / "p.yaml")) == profile
    (tmp_path / "p.json").write_text(profile.model_dump_json())
    assert load_profile(str(tmp_path / "p.json")) == profile
    with pytest.raises(ProfileError, match="cannot write"):
        profile.save(tmp_path / "missing" / "p.yaml")


def test_a_table_is_what_the_file_says_and_its_error_is_of_cells_it_had_not_seen(tmp_path: Path) -> None:
    points = [GridPoint(batch=b, threads=k, p95_ms=10 + 2 * b * b / k**0.5) for b in (1, 2, 4, 6, 8) for k in (1, 2, 4)]
    about: dict[str, Any] = {"name": "t", "model": "T", "source": "test", "machine": "test"}
    profile = Profile.from_points(points, percentile=95, form="auto", **about)
    assert profile.form == "table"
    assert profile.validation is not None
    assert profile.validation.table.mean_percent < profile.validation.formula.mean_percent
    profile.save(tmp_path / "t.yaml")
    model = load_profile(str(tmp_path / "t.yaml")).latency_model()
    assert model.latency(6, 2) == pytest.approx((10 + 72 / 2**0.5) / 1e3)
    assert model.error == profile.error.p90 > 0
    formula = Profile.from_points(points, percentile=95, form="formula", cross_validated=True, **about)
    assert formula.latency_model().by_cell == ()
    assert formula.validation == profile.validation


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("name", ["resnet18", "yolov5s-paper"])
def test_every_profile_can_be_drawn(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    check_path(path)
    save_plot(load_profile(name), path)
    assert path.read_bytes()[:5] in (b"<?xml", b"\x89PNG\r")


@pytest.mark.parametrize(
    ("path", "message"), [("p.pdf", "ends in .svg or .png"), ("/nowhere/p.svg", "create it first")]
)
def test_a_picture_that_cannot_be_written_is_refused_beforehand(path: str, message: str) -> None:
    with pytest.raises(SpongeError, match=message):
        check_path(Path(path))


def change(**fields: Any) -> dict[str, Any]:
    return {**valid(), **fields}


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in valid().items() if k != field}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must be a YAML mapping"),
        (without("machine"), "profile 'x.yaml': machine is missing"),
        (change(colour="red"), "colour Extra inputs"),
        (change(percentile=90), "percentile Input should be 50, 95 or 99"),
        (change(points=[]), "points"),
        (change(points=[{"batch": 1, "threads": 1, "p95_ms": -3.0}]), r"points\.0\.p95_ms .*greater than 0"),
        (change(points=[{"batch": 1, "threads": 1, "p95_ms": float("nan")}]), r"points\.0\.p95_ms"),
        (change(points=[{"batch": 1, "threads": 1, "p95_ms": float("inf")}]), r"points\.0\.p95_ms .*finite"),
        (
            change(points=[{"batch": 1, "threads": 1, "p95_ms": 3.0, "p99_ms": 2.0}]),
            r"points\.0 p99_ms is 2 but p95_ms is 3: a higher percentile cannot be less",
        ),
        (change(form="guess"), "form Input should be 'formula' or 'table'"),
        (change(quotas=[{"cores": 0, "batch": 1}]), r"quotas\.0\.cores .*greater than 0"),
        (
            change(lanes=[{"lanes": 1, "batch": 1, "alone_p50_ms": 3.0}]),
            r"lanes\.0\.lanes .*equal to 2",
        ),
        (
            change(
                origin="published",
                form="table",
                coefficients_ms={"gamma": 9.0, "delta": 1.0, "epsilon": -1.0, "eta": 0.0},
            ),
            "form: table needs coefficients that are not negative",
        ),
        (change(points=[{"batch": 1, "threads": 1, "p50_ms": 3.0}]), "no p95_ms, which percentile: 95 needs"),
        (change(points=[{"batch": 1, "threads": 1, "p95_ms": 3.0}] * 2), "same batch and threads"),
        (
            change(coefficients_ms={"gamma": 1.0, "delta": -1.0, "epsilon": 0.0, "eta": 0.0}),
            "coefficient delta is negative",
        ),
        (
            change(points=[{"batch": b, "threads": 2, "p95_ms": t} for b, t in ((2, 13.0), (4, 11.1))]),
            r"l\(4, 2\) is 11\.1 ms but l\(2, 2\) is 13 ms: a larger batch cannot be faster; measure again",
        ),
    ],
)
def test_a_wrong_file_says_what_and_where(tmp_path: Path, data: object, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ProfileError, match=message):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("data", "message"), [(b"a: [", "not valid YAML in line"), (b"\xff\xfe\x00", "not a text file|not valid YAML")]
)
def test_a_file_that_is_no_yaml(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ProfileError, match=message):
        load_profile(str(tmp_path / "x"))


coefficients = st.floats(0.5, 200.0)


@settings(max_examples=40)
@given(coefficients, coefficients, coefficients, coefficients)
def test_the_fit_recovers_an_exact_model(gamma: float, delta: float, epsilon: float, eta: float) -> None:
    true = LatencyModel(gamma / 1e3, delta / 1e3, epsilon / 1e3, eta / 1e3)
    result = fit([Point(b, k, true.latency(b, k)) for b, k in GRID])
    for b, k in GRID:
        assert result.model.latency(b, k) == pytest.approx(true.latency(b, k), rel=1e-3)
    assert result.mape_percent < 0.1


@settings(max_examples=40)
@given(st.lists(st.floats(0.5, 2.0), min_size=len(GRID), max_size=len(GRID)))
def test_whatever_was_measured_the_fit_is_physical(noise: list[float]) -> None:
    model = fit([Point(b, k, n * (0.02 * b / k + 0.003)) for (b, k), n in zip(GRID, noise, strict=True)]).model
    assert min(model.gamma, model.delta, model.epsilon, model.eta) >= 0
    for b, k in GRID:
        assert model.latency(b, k) <= model.latency(b + 1, k)
        assert model.latency(b, k + 1) <= model.latency(b, k)


def test_one_bad_point_does_not_bend_the_rest() -> None:
    true = LatencyModel(0.020, 0.004, 0.006, 0.002)
    points = [Point(b, k, true.latency(b, k) * (3.0 if (b, k) == (4, 2) else 1.0)) for b, k in GRID]
    model = fit(points).model
    assert model.latency(4, 2) == pytest.approx(true.latency(4, 2), rel=0.08)
    assert model.latency(8, 4) == pytest.approx(true.latency(8, 4), rel=0.08)


def test_threads_that_only_slow_down_are_promised_nothing() -> None:
    alone = {b: 0.003 * b + 0.005 for b in (1, 2, 4, 8)}
    points = [Point(b, k, t * (1 if k == 1 else 1.3)) for b, t in alone.items() for k in (1, 2, 4)]
    result = fit(points)
    assert (result.model.gamma, result.model.epsilon) == (0, 0)
    assert result.model.latency(4, 4) == pytest.approx(alone[4], rel=1e-3)
    assert result.model.error == 0


def test_one_thread_count_is_split_by_the_assumed_share() -> None:
    model = fit([Point(b, 1, 0.01 * b + 0.002) for b in (1, 2, 4)], parallel_share=0.75).model
    assert model.latency(4, 1) == pytest.approx(0.042, rel=1e-3)
    assert model.latency(4, 4) == pytest.approx(0.042 * (0.25 + 0.75 / 4), rel=1e-3)


def test_one_batch_size_is_all_per_item() -> None:
    model = fit([Point(4, k, 0.08 / k + 0.008) for k in (1, 2)]).model
    assert model.latency(8, 2) == pytest.approx(2 * 0.048, rel=1e-3)


@pytest.mark.parametrize("points", [[], [Point(1, 1, 0.0)], [Point(1, 1, float("nan"))]])
def test_nothing_to_fit(points: list[Point]) -> None:
    with pytest.raises(ProfileError):
        fit(points)


def test_the_error_to_allow_for_is_never_negative() -> None:
    slow = LatencyModel(1.0, 0.0, 0.0, 0.0)
    assert judge(slow, [Point(1, 1, 0.5), Point(2, 1, 1.0)]).model.error == 0.0
