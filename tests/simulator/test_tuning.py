"""`sponge tune`: the cheapest profile comes first, with the fewest cores that keep the SLO."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sponge_cli.tune import command
from sponge_core.errors import SpongeError
from sponge_profiles.points import GridPoint
from sponge_profiles.profile import Profile
from sponge_simulator.tuning import Goal, runtime_of, tune

GOAL = Goal(rate_rps=20, slo_s=0.3, target=0.99, max_cores=3, duration_s=6, seeds=1)


def profile(name: str, row_ms: float, source: str = "digits://") -> Profile:
    """A batch of b rows takes `row_ms` a row on one thread, and 0.6 of that on two."""
    points = []
    for batch, threads in itertools.product((1, 2, 4), (1, 2)):
        ms = row_ms * batch * (1.0 if threads == 1 else 0.6) + 1
        points.append(GridPoint(batch=batch, threads=threads, p50_ms=ms, p95_ms=ms, p99_ms=ms, n=9))
    return Profile.from_points(points, name=name, model=source, source="test", machine="none", percentile=95)


def test_the_cheapest_profile_comes_first_and_the_hopeless_last() -> None:
    slow, fast, hopeless = profile("slow", 60), profile("fast", 20), profile("hopeless", 2000)
    found = tune([hopeless, slow, fast], GOAL, lambda _: None)
    assert [one.profile for one in found] == ["fast", "slow", "hopeless"]
    assert found[0].in_time >= 0.99
    assert found[0].mean_cores < found[1].mean_cores
    assert found[-1].max_cores is None


def test_fewer_cores_would_miss() -> None:
    (best,) = tune([profile("slow", 60)], GOAL, lambda _: None)
    assert best.max_cores is not None
    assert best.max_cores > best.step
    less = Goal(20, 0.3, 0.99, max_cores=1, duration_s=6, seeds=1)
    (worse,) = tune([profile("slow", 60)], less, lambda _: None)
    assert worse.max_cores is None


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("digits://", ("torch", "fp32")),
        ("onnx:///m.onnx", ("onnx", "fp32")),
        ("onnx:///m.onnx?runtime=openvino&dtype=bf16", ("openvino", "bf16")),
        ("torchvision://resnet18?weights=none&dtype=int8&runtime=onnx", ("onnx", "int8")),
    ],
)
def test_runtime_and_format_come_from_the_source(source: str, expected: tuple[str, str]) -> None:
    assert runtime_of(source) == expected


def test_profiles_need_names_of_their_own() -> None:
    with pytest.raises(SpongeError, match="two profiles are called a: give one another --name"):
        tune([profile("a", 20), profile("a", 30)], GOAL, lambda _: None)
    with pytest.raises(SpongeError, match="no profile to choose from"):
        tune([], GOAL, lambda _: None)


def test_the_command_prints_a_part_of_a_manifest(tmp_path: Path) -> None:
    profile("onnx", 20, "digits://?runtime=onnx").save(tmp_path / "a.yaml")
    options = [str(tmp_path / "a.yaml"), "--rate", "20", "--slo-ms", "300", "--duration-s", "6", "--seeds", "1"]
    done = CliRunner().invoke(command, [*options, "--max-cores", "2"])
    assert done.exit_code == 0, done.output
    assert 'source: "digits://?runtime=onnx"' in done.output
    assert "batch: {max:" in done.output
    done = CliRunner().invoke(command, [*options, "--max-cores", "2", "--json"])
    assert json.loads(done.stdout)[0]["runtime"] == "onnx"
    hopeless = ["--rate", "900", "--slo-ms", "30", "--max-cores", "1", "--duration-s", "2", "--seeds", "1"]
    done = CliRunner().invoke(command, [str(tmp_path / "a.yaml"), *hopeless])
    assert done.exit_code == 1
    assert "no profile keeps 30 ms for 99.0% at 900/s on 1 cores" in done.output
