"""The comparison of runtimes: its figures from measured cells, its table, and the command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rich.console import Console

from sponge_profiler.comparison import Compared, comparison_table, summary, variants_of
from sponge_profiler.grid import GridCell, MeasuredCell
from sponge_profiles.timing import BatchTime


def cell(cores: float, batch: int, lanes: int, *times_ms: float) -> MeasuredCell:
    return MeasuredCell(GridCell(cores, batch, lanes), tuple(BatchTime(ms / 1e3, ms / 1e3) for ms in times_ms))


MEASURED = [
    cell(1, 1, 1, 10, 12, 50),
    cell(2, 1, 1, 9, 8, 8),
    cell(1, 4, 1, 40, 40, 40),
    cell(2, 4, 1, 25, 25, 25),
    cell(2, 1, 2, 14, 14, 14),
    cell(2, 4, 2, 45, 45, 45),
]


def test_a_row_of_the_table_comes_from_the_medians() -> None:
    row = summary("onnx", "fp32", MEASURED, {"base_mib": 1.0, "lane_mib": 20.0, "item_mib": 3.0})
    assert (row.alone_ms, row.fastest_ms) == (12.0, (8.0, 2))
    assert row.rows_per_s == pytest.approx(8 / 0.045, abs=0.1)
    assert row.best == (4, 1, 2)
    assert (row.lane_mib, row.item_mib) == (20.0, 3.0)
    assert summary("onnx", "fp32", MEASURED, None).lane_mib is None


def test_the_fastest_comes_first_and_what_cannot_run_last() -> None:
    slow = summary("torch", "fp32", MEASURED[:4], None)
    fast = summary("openvino", "bf16", MEASURED, None)
    console = Console(record=True, width=160)
    console.print(comparison_table([Compared("onnx", "bf16", why_not="no"), slow, fast], "digits://", 2))
    text = console.export_text()
    lines = [line.split()[:2] for line in text.splitlines()]
    order = [line for line in lines if line[:1] in (["torch"], ["openvino"], ["onnx"])]
    assert order == [["openvino", "bf16"], ["torch", "fp32"], ["onnx", "bf16"]]
    assert "b=4, 2 x 1" in text


@pytest.mark.parametrize(("flags", "formats"), [({"avx512_bf16"}, ["fp32", "bf16"]), ({"avx2"}, ["fp32"])])
def test_formats_are_compared_where_cpu_and_runtime_have_them(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], formats: list[str]
) -> None:
    monkeypatch.setattr("sponge_profiler.comparison.cpu_flags", lambda: frozenset(flags))
    assert variants_of(["torch"]) == [("torch", dtype) for dtype in formats]
    assert variants_of(["onnx"]) == [("onnx", dtype) for dtype in [*formats, "int8"]]


def profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sponge_cli.main", "profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.torch
@pytest.mark.slow
def test_the_command_compares_what_runs_and_says_why_the_rest_does_not() -> None:
    command = ["digits://", "--runtimes", "torch,onnx", "--cores", "1", "--batches", "1,2", "--repeat", "4", "--json"]
    done = profile(*command)
    assert done.returncode == 0, done.stderr
    found = {(one["runtime"], one["dtype"]): one for one in json.loads(done.stdout)}
    for runtime in ("torch", "onnx"):
        assert found[runtime, "fp32"]["alone_ms"] > 0
        assert found[runtime, "fp32"]["rows_per_s"] > 0
    assert "need example rows to find their range of numbers" in found["onnx", "int8"]["why_not"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtimes", "tvm"], "unknown runtime 'tvm'; write all, or some of torch, onnx, openvino"),
        (["--runtimes", "all", "-o", "m.yaml"], "--runtimes only compares: leave -o, --plot and --in-cluster out"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(arguments: list[str], message: str) -> None:
    done = profile("digits://", *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
