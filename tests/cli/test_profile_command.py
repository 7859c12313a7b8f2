"""`sponge profile` as a user calls it: a real measurement of a small model, and the errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sponge_profiles.profile import load_profile


def sponge(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sponge_cli.main", "profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def cgroups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob("**/sponge-profile-*")]


@pytest.mark.torch
def test_measures_under_a_limit_and_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    limit = [] if os.geteuid() == 0 else ["--no-limit"]
    cores = "1" if len(os.sched_getaffinity(0)) < 2 else "1,2"
    grid = ["--cores", cores, "--batches", "1,32", "--repeat", "5", "--percentile", "50", "--form", "formula"]
    done = sponge("digits://", *grid, *limit, "-o", str(file), "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    profile = load_profile(str(file))
    assert profile.model_dump(mode="json") == printed
    assert profile.name == "digits"
    assert {(p.batch, p.n) for p in profile.points} == {(1, 5), (32, 5)}
    assert profile.percentile == 50
    assert profile.latency_model().latency(32, 1) > profile.latency_model().latency(1, 1)
    assert "formula of p50" in done.stderr
    assert ("real CPU limit" in profile.source) == (not limit)
    assert cgroups() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits://", "--cores", "999"], "measure up to that"),
        (["digits://", "--cores", "0.5"], "no whole number of cores among 0.5"),
        (["digits://", "--cores", "1,-2"], "write numbers of cores, as in 0.5,1,2"),
        (["digits://", "--cores", "0,1"], "too few to measure under; name 0.05 or more"),
        (["digits://", "--batches", "1,0.5"], "write whole numbers from 1, as in 1,2,4"),
        (["digits://", "--cores", "0.5,1", "--no-limit"], "leave the fractions out"),
        (["digits://", "--plot", "p.pdf"], "ends in .svg or .png"),
        (["digits://", "-o", "/nowhere/p.yaml"], "create it first"),
        (["resnet18"], "is of no known kind; for example: torchvision://"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(arguments: list[str], message: str) -> None:
    done = sponge(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
