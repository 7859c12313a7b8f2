"""What experiments refuse before anything runs: options, folders, saved results and ledgers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.operator_plan import read_result
from bench.options import arguments, at_least_one, at_least_zero, natural, positive, share
from bench.serving.ledger import Ledger

from sponge_core.errors import SpongeError


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive, ["0.5", "1e3"], ["0", "-1", "nan", "inf", "1e300", "x", ""]),
        (at_least_zero, ["0", "2"], ["-0.1", "nan", "inf"]),
        (share, ["0.1", "1"], ["0", "1.1", "nan"]),
        (at_least_one, ["1", "300"], ["0", "-1", "1.5", "1" + 30 * "0", "x"]),
        (natural, ["0", "7"], ["-1", "0.5"]),
    ],
)
def test_amounts(
    kind: Callable[[str], float], good: list[str], bad: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = arguments(None)
    parser.add_argument("--amount", type=kind)
    for text in good:
        assert parser.parse_args(["--out", str(tmp_path), f"--amount={text}"]).amount == float(text)
    for text in bad:
        with pytest.raises(SystemExit):
            parser.parse_args(["--out", str(tmp_path), f"--amount={text}"])
        assert "--amount: " in (said := capsys.readouterr().err)
        assert "give a" in said


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(SystemExit):
            arguments(None).parse_args(["--out", str(folder)])
        assert "choose a folder that can be written" in capsys.readouterr().err
    assert arguments(None).parse_args(["--out", str(tmp_path / "new")]).out.is_dir()


@pytest.mark.parametrize(
    "content",
    [b'{"kind": "run", "par', b"[]", b"{}", b"\xff\xfe", b'{"kind": "run", "params": [], "result": {}}', b"\n"],
)
def test_a_damaged_line_of_a_ledger_is_named_and_nothing_is_lost(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runs.jsonl"
    Ledger(path).add("run", {"seed": 1}, {"cores": 2.0})
    before = path.read_bytes()
    path.write_bytes(before + content + b"\n")
    with pytest.raises(SpongeError, match=r"runs.jsonl, line 2: .*delete the line"):
        Ledger(path)
    assert path.read_bytes() == before + content + b"\n"
    path.write_bytes(before)
    assert len(Ledger(path).of_kind("run")) == 1


def test_a_ledger_that_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match="move it away"):
        Ledger(tmp_path)


@pytest.mark.parametrize("document", ["x", "[]", "{}", "null", None])
def test_what_is_no_result_of_operator_scale_is_said(tmp_path: Path, document: str | None) -> None:
    if document is not None:
        (tmp_path / "result.json").write_text(document)
    with pytest.raises(SpongeError, match=r"result.json is no result of bench.operator_scale .*; run that again"):
        read_result(tmp_path / "result.json")


@pytest.mark.parametrize("value", ["many", None, float("nan")])
def test_figures_that_are_none_are_said(tmp_path: Path, value: object) -> None:
    names = "services rest_cores rest_mib rest_calls rest_control_cores change_cores resizes_per_s resize_cores"
    figures = dict.fromkeys([*names.split(), "resize_calls", "resize_control_cores"], 1.0)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(figures))
    assert read_result(path) == figures
    path.write_text(json.dumps(figures | {"rest_mib": value}))
    with pytest.raises(SpongeError, match="run that again"):
        read_result(path)
