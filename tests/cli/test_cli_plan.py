"""`sponge plan` as a user types it; the paper's decision table row by row."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from click.testing import CliRunner
from command_line import sponge

from sponge_cli.plan import command

# Remaining SLO in ms -> (cores, batch) of the published prototype: YOLOv5s, 20 requests/s, SLO 1000 ms.
PAPER = {
    995: (9, 4),
    980: (9, 5),
    970: (10, 4),
    952: (10, 5),
    945: (11, 4),
    928: (11, 5),
    925: (12, 4),
    908: (12, 5),
    892: (13, 5),
    876: (14, 5),
    864: (15, 5),
    856: (16, 5),
}


def ask(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer: dict[str, object] = json.loads(result.output)
    return answer


def ask_paper(remaining_ms: int) -> tuple[object, object, object]:
    answer = ask(
        *("--planner", "paper", "--profile", "yolov5s-paper", "--rate", "20", "--slo-ms", "1000"),
        *("--network-ms", str(1000 - remaining_ms), "--max-cores", "16", "--max-batch", "8"),
    )
    return answer["cores"], answer["batch"], answer["feasible"]


@pytest.mark.parametrize(("remaining_ms", "decision"), PAPER.items())
def test_the_paper_s_decisions(remaining_ms: int, decision: tuple[int, int]) -> None:
    assert ask_paper(remaining_ms) == (*decision, True)


def test_each_row_ends_where_the_next_begins() -> None:
    for (start, _), (_, below) in pairwise(PAPER.items()):
        assert ask_paper(start - 1) == (*below, True)


def test_below_the_table_nothing_is_feasible() -> None:
    assert ask_paper(855) == (0, 0, False)


def test_the_projected_planner_needs_fewer_cores_than_the_paper_s() -> None:
    answer = ask("--profile", "yolov5s-paper", "--rate", "20", "--network-ms", "91")
    assert answer["feasible"] is True
    assert answer["cores"] in (3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "yolo-nine", "--rate", "20"), "yolov5s-paper"),
        (("--profile", "yolov5s-paper", "--rate", "20", "--network-ms", "1000"), "lower --network-ms"),
        (("--profile", "yolov5s-paper", "--rate", "-1"), "--rate"),
        (("--profile", "yolov5s-paper"), "--rate"),
    ],
)
def test_bad_input_names_the_fix_without_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    result = sponge("plan", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_help_lists_every_subcommand_and_loads_none() -> None:
    probe = "import sys, sponge_cli.main as m\ntry: m.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", probe, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    for name in ("serve", "operator", "profile", "plan", "compile", "load", "cluster", "demo"):
        assert name in result.stdout
    assert result.stdout.endswith("False\n")
