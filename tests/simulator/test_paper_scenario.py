"""The paper's experiment on the synthetic uplink: fast enough for every change, strict enough to notice one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_ours_keeps_the_deadlines_with_a_quarter_of_the_paper_s_cores() -> None:
    simulate = ["simulate", "--scenario", "paper", "--policies", "sponge,sponge-paper,clairvoyant"]
    done = subprocess.run(
        [sys.executable, "-m", "sponge_cli.main", *simulate, "--bandwidth", "synthetic", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    ours, paper, bound = json.loads(done.stdout)["policies"]
    assert ours["sent"] == paper["sent"] == ours["in_time"] + ours["late"] + ours["shed"]
    assert ours["violations"] <= 0.0005
    assert bound["mean_cores"] <= ours["mean_cores"] <= 3.2
    assert ours["mean_cores"] < paper["mean_cores"] / 3.5
    assert ours["resizes"] <= 600
