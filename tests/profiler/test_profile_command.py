"""`sponge profile` as a user calls it: a real measurement of a small model, and the errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import sponge

from sponge_profiles.profile import load_profile

COMMAND = [sys.executable, "-m", "sponge_cli.main", "profile"]


def run_profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as a measurement starts lanes and is interrupted by signals."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=240, check=False)


def measure(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A measurement that succeeds. One that a busy machine has disturbed asks for the same command again."""
    for _ in range(10):
        done = run_profile(*arguments)
        if "run the same command again" not in done.stderr:
            break
        arguments = tuple(argument for argument in arguments if argument != "--restart")
    assert done.returncode == 0, done.stderr
    return done


def cgroups() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob("**/sponge-profile-*")]


@pytest.mark.torch
def test_measures_under_a_limit_and_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    limit = [] if os.geteuid() == 0 else ["--no-limit"]
    cores = "1" if len(os.sched_getaffinity(0)) < 2 else "1,2"
    grid = ["--cores", cores, "--batches", "1,32", "--repeat", "5", "--percentile", "50", "--form", "formula"]
    done = measure("digits://", *grid, *limit, "-o", str(file), "--json")
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


@pytest.mark.torch
@pytest.mark.skipif(os.geteuid() != 0, reason="a CPU limit takes root")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="lanes side by side take two CPUs")
def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    file, part, plot = tmp_path / "d.yaml", tmp_path / "d.yaml.part", tmp_path / "d.svg"
    command = ["digits://", "--cores", "0.5,1,2", "--batches", "1,64", "--repeat", "100", "--percentile", "50"]
    command += ["-o", str(file), "--plot", str(plot)]
    first = subprocess.Popen([*COMMAND, *command], stderr=subprocess.PIPE, text=True)
    visited = 0
    while visited < 3:
        assert first.poll() is None, first.communicate()[1]
        visited = part.read_text().count('"visit"') if part.exists() else 0
        time.sleep(0.005)
    first.send_signal(signal.SIGTERM)
    _, messages = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command continues there" in messages
    assert "Traceback" not in messages
    assert cgroups() == []
    assert not file.exists()
    kept = part.read_text()

    other = run_profile("digits://?dtype=bf16", *command[1:])
    assert other.returncode == 2
    assert "the model was digits://, now it is digits://?dtype=bf16" in other.stderr
    assert part.read_text() == kept

    done = measure(*command)
    assert f"continuing {part}" in done.stderr
    assert "lanes side by side" in done.stdout
    assert "this profile uses the " in done.stdout
    profile = load_profile(str(file))
    assert {p.n for p in profile.points} == {100}
    assert {(p.cores, p.n) for p in profile.quotas} == {(0.5, 100)}
    assert {(p.lanes, p.n) for p in profile.lanes} == {(2, 200)}
    assert "<svg" in plot.read_text()
    assert not part.exists()


@pytest.mark.torch
def test_a_batch_that_the_model_does_not_take_is_refused_and_so_is_its_file_when_it_changed(tmp_path: Path) -> None:
    import torch

    def export(most: int) -> None:
        # A row takes milliseconds of computation, so that a busy machine cannot make a larger batch the faster one.
        dynamic = ({0: torch.export.Dim("batch", min=1, max=most)},)
        layer, rows = torch.nn.Conv2d(8, 32, 7), torch.ones(2, 8, 64, 64)
        program = torch.export.export(layer, (rows,), dynamic_shapes=dynamic)
        torch.export.save(program, tmp_path / "m.pt2")

    export(4)
    command = [f"file://{tmp_path}/m.pt2", "--cores", "1", "-o", str(tmp_path / "m.yaml"), "--no-limit"]
    command += ["--percentile", "50"]  # of a few batches, the slowest says more of the machine than of the model
    done = run_profile(*command, "--batches", "1,4,8")
    assert done.returncode == 2
    assert "exported for at most 4 rows: leave sizes above 4 out of --batches" in done.stderr
    export(8)
    done = run_profile(*command, "--batches", "1,4,8")
    assert done.returncode == 2
    assert "holds a measurement of something else: the model's file was" in done.stderr
    measure(*command, "--batches", "1,4,8", "--restart")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "model is missing (and"),
        ("- 1", "must be a YAML mapping"),
        ("a: [", "is not valid YAML in line"),
        (None, "give a file, one of "),
    ],
)
def test_a_broken_profile_is_refused_wherever_one_is_read(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "p.yaml"
    if text is not None:
        file.write_text(text)
    done = sponge("plan", "--profile", str(file), "--rate", "1")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


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
        (["resnet18"], "is of an unknown kind; write for example torchvision://"),
    ],
)
def test_what_cannot_work_is_refused_in_a_line(arguments: list[str], message: str) -> None:
    done = sponge("profile", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
