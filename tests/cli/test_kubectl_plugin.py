"""`kubectl sponge`, with a kubectl that answers from a file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sponge_cli.kubectl import cli

SERVICE: dict[str, Any] = {
    "metadata": {"name": "digits", "generation": 3},
    "spec": {"mode": "Auto"},
    "status": {
        "observedGeneration": 3,
        "serving": "1/2",
        "cores": "0.5",
        "desiredCores": "0.75",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "ErrImagePull", "message": "digits-2: no such image"},
            {"type": "Planning", "status": "True", "reason": "Auto", "message": "sizes follow the deadlines"},
        ],
        "pods": [
            {"name": "digits-1", "actuatedCores": "0.5", "cores": "0.75", "batch": 8, "reason": "grow"},
            {"name": "digits-2", "reason": "ErrImagePull"},
        ],
        "lastDecisions": [
            {
                **{"time": "2026-01-01T00:00:00Z", "pod": "digits-1", "from": "0.5", "to": "0.75", "batch": 8},
                **{"reason": "grow", "outcome": "actuated", "urgent": True, "queue": 4, "arrivals": "12/s"},
                "frontier": "0.5:3 0.75:0",
            }
        ],
    },
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the plugin; kubectl prints `answer`, or fails with `error`."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def run(*arguments: str, answer: Any = SERVICE, error: str = "") -> tuple[int, str, str]:
        (tmp_path / "answer").write_text(answer if isinstance(answer, str) else json.dumps(answer))
        (tmp_path / "error").write_text(error)
        kubectl = tmp_path / "kubectl"
        kubectl.write_text(
            f'#!/bin/sh\necho "$@" > {tmp_path}/called\ncat {tmp_path}/error >&2\n'
            f"test -s {tmp_path}/error && exit 1\ncat {tmp_path}/answer\n"
        )
        kubectl.chmod(0o755)
        done = CliRunner().invoke(cli, arguments)
        called = (tmp_path / "called").read_text().strip() if (tmp_path / "called").exists() else ""
        return done.exit_code, done.output, called

    return run


def test_status(run: Any) -> None:
    code, text, called = run("status", "digits", "-n", "team-a", "--context", "prod")
    assert code == 0
    assert called == "get spongeservices.serving.sponge.dev digits -o json --namespace=team-a --context=prod"
    assert "digits: 1/2 pods ready, mode Auto" in text
    assert "Ready      False   ErrImagePull  digits-2: no such image" in text
    assert "digits-2  -      -       -      ErrImagePull" in text
    assert "has not seen the newest spec" not in text
    assert "has not seen the newest spec" in run("status", "digits", answer={**SERVICE, "status": {}})[1]


def test_explain(run: Any) -> None:
    _, text, _ = run("explain", "digits")
    assert "digits-1: 0.5 -> 0.75 cores, batch 8" in text
    assert "grow, actuated; requests about to miss their deadlines, 4 waiting, 12/s forecast" in text
    assert "misses expected by size: 0.5:3 0.75:0" in text
    assert "no decision" in run("explain", "digits", answer={**SERVICE, "status": {}})[1]


def test_recommend(run: Any) -> None:
    _, text, _ = run("recommend", "digits")
    assert "digits-1  0.5  0.75" in text
    assert "Auto: sizes follow the deadlines" in text
    assert "pods:" not in text, "their number is fixed"
    followed = {**SERVICE, "status": {"scaling": {"wanted": 3, "present": 2, "serving": 1}}}
    assert "pods: 1 serve, 3 should" in run("recommend", "digits", answer=followed)[1]
    code, text, _ = run("recommend", "digits", answer={**SERVICE, "spec": {"mode": "Off"}})
    assert code == 1
    assert "set spec.mode to Recommend or Auto" in text


def test_pause_and_resume(run: Any) -> None:
    target = "annotate spongeservices.serving.sponge.dev digits serving.sponge.dev/paused"
    assert run("pause", "digits", answer="annotated\n")[1:] == ("annotated\n", f"{target}=true --overwrite")
    for direction in ("grow", "shrink"):
        assert run("pause", "digits", f"--{direction}", answer="annotated\n")[2] == f"{target}={direction} --overwrite"
    assert run("resume", "digits", answer="annotated\n")[1:] == ("annotated\n", f"{target}-")


def test_wake(run: Any) -> None:
    called = run("wake", "digits", answer="annotated\n")[2]
    target = r"annotate spongeservices\.serving\.sponge\.dev digits serving\.sponge\.dev/wake"
    assert re.fullmatch(rf"{target}=\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ --overwrite", called)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ('error: the server doesn\'t have a resource type "spongeservices"', "install the chart"),
        ('Error from server (NotFound): spongeservices "x" not found', "choose the namespace with -n"),
        ("Error from server (Forbidden): no", "Ask for the right"),
        ("Unable to connect to the server: refused", "Unable to connect"),
    ],
)
def test_an_error_says_what_to_do(run: Any, error: str, advice: str) -> None:
    code, text, _ = run("status", "x", error=error)
    assert code == 1
    assert advice in text
