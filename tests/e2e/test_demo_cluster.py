"""`sponge demo --backend cluster`: the chart, a SpongeService that is resized in place, a fixed size, and the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Kubectl

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(600)
def test_the_demo_on_a_cluster(kubectl: Kubectl, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sponge_cli.main", "demo", "--backend", "cluster"]
    options = ["--duration-s", "15", "--statics", "1", "--port", "0", "--out", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "sized by the operator through pods/resize" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith("Sponge ")
    assert lines[2].startswith("fixed 1 ")
    sponge, fixed = (run["figures"] for run in json.loads((tmp_path / "results.json").read_text())["runs"])
    # The very same schedule for both, in pods that were never restarted.
    assert sponge["sent"] == fixed["sent"] > 100
    assert sponge["resizes"] > 2
    assert fixed["resizes"] == sponge["restarts"] == fixed["restarts"] == 0
    assert fixed["mean_cores"] == 1.0
    assert sponge["mean_cores"] < 1.5
    assert sponge["in_time_percent"] > 50  # how well it does is for the benchmarks: here other tests run beside it
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert "sponge-demo" not in kubectl("get", "namespaces", "-o", "name")
