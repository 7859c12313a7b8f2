"""`sponge operator`: its errors; the decision log; the deduplication of events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import sponge

from sponge_core.errors import SpongeError
from sponge_operator.autoscale.decision_log import DecisionLog, Entry
from sponge_operator.context import Events


def test_help_has_an_example() -> None:
    text = sponge("operator", "run", "--help").stdout
    assert "sponge operator run --server-image" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("spec: [", "not YAML"),
        ("containers: []", "write a partial pod template, with metadata and spec at the top"),
    ],
)
def test_a_bad_template_gives_one_line_and_exit_code_2(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "template.yaml"
    if content is not None:
        path.write_text(content)
    done = sponge("operator", "run", "--server-template", str(path))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


ENTRY = Entry(
    time=1.0,
    service="team-a/digits",
    pod="digits-1",
    from_milli=250,
    to_milli=500,
    batch_cap=8,
    planner="projected",
    reason="grow",
    feasible=True,
    urgent=True,
    outcome="actuated",
    took_s=0.031,
    queue_length=3,
    arrival_rate_rps=10.0,
    frontier=[(250, 2.0), (500, 0.0)],
)


def test_each_decision_is_a_line_of_json_and_visible_at_once(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    with DecisionLog(path) as log:
        log.write(ENTRY)
        read = json.loads(path.read_text())
        assert (read["from_milli"], read["to_milli"], read["outcome"]) == (250, 500, "actuated")
        log.write(ENTRY)
    assert len(path.read_text().splitlines()) == 2


def test_a_decision_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match="name a file that can be written"), DecisionLog(tmp_path / "no" / "log"):
        pass


def test_without_a_decision_log_nothing_is_written() -> None:
    with DecisionLog(None) as log:
        log.write(ENTRY)


def test_the_same_event_is_not_repeated_for_a_while() -> None:
    posted: list[tuple[str, str, str]] = []
    now = [0.0]
    events = Events(lambda *event: posted.append(event), clock=lambda: now[0], quiet_s=300)
    for at, about in ((0, "a"), (1, "a"), (2, "b"), (299, "a"), (301, "a")):
        now[0] = at
        events.emit("Warning", "ResizeDeferred", f"{about} at {at}", about=about)
    assert [message for _, _, message in posted] == ["a at 0", "b at 2", "a at 301"]


def test_without_a_cluster_the_message_names_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    command = [sys.executable, "-m", "sponge_cli.main", "operator", "run"]
    options = ["--metrics-port", "0", "--health-port", "0", "--log-level", "error"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "set KUBECONFIG to the file of your cluster" in done.stderr
