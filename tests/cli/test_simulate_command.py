"""`sponge simulate`: the JSON that programs read, and clear errors for what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import sponge

CONTRACT = {"policy", "sent", "in_time", "violations", "mean_cores", "core_seconds", "resizes", "p99_ms"}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sponge_cli.main", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


SHORT = ("--duration-s", "20", "--bandwidth", "synthetic")


@pytest.mark.slow
def test_json_has_a_row_a_policy_and_repeats_itself() -> None:
    arguments = (*SHORT, "--policies", "sponge,sponge-paper,fa2,static-8,clairvoyant", "--seed", "3", "--json")
    first = simulate(*arguments)
    assert first.returncode == 0, first.stderr
    rows = json.loads(first.stdout)["policies"]
    assert [row["policy"] for row in rows] == ["sponge", "sponge-paper", "fa2", "static-8", "clairvoyant"]
    assert all(row.keys() >= CONTRACT for row in rows)
    ours, bound = rows[0], rows[-1]
    assert bound["core_seconds"] <= ours["core_seconds"]
    assert ours["sent"] == ours["in_time"] + ours["late"] + ours["shed"] == bound["sent"]
    assert simulate(*arguments).stdout == first.stdout


@pytest.mark.slow
def test_a_table_and_a_plot(tmp_path: Path) -> None:
    plot = tmp_path / "pareto.svg"
    done = simulate(*SHORT, "--scenario", "mixed", "--policies", "sponge,vpa@moldable-edf", "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert "tight %" in done.stdout
    drawn = plot.read_text()
    assert "<svg" in drawn
    assert "vpa@moldable-edf" in done.stdout


def test_the_list_names_everything() -> None:
    done = sponge("simulate", "--list")
    assert all(word in done.stdout for word in ("paper", "mixed", "themis", "moldable-edf", "clairvoyant"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policies", "sponge,spunge"), "no policy 'spunge'; there are sponge,"),
        (("--policies", "vpa@lifo"), "no dispatch rule 'lifo'; there are"),
        (("--policies", ","), "--policies is empty"),
        (("--scenario", "nowhere.yaml"), "scenario 'nowhere.yaml': No such file"),
        (("--bandwidth", "nowhere.log"), "nowhere.log: cannot be read"),
        (("--arrivals", "nowhere.csv"), "nowhere.csv: cannot be read"),
        (("--plot", "x.pdf", "--duration-s", "1"), "ends in .svg or .png"),
        (("--rate", "0"), "--rate"),
    ],
)
def test_what_cannot_be_is_said_with_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    done = sponge("simulate", "--bandwidth", "synthetic", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
