"""`make test`'s last lines: what each part took, and one line as pytest writes it."""

from __future__ import annotations

from pathlib import Path

import everything
import pytest
from everything import Part, summary

REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/></testsuites>'


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(everything, "OUT", tmp_path)
    return tmp_path


def test_the_counts_of_all_parts_are_one_line(out: Path) -> None:
    (out / "unit.xml").write_text(REPORT.format(1870, 0, 0, 6))
    (out / "e2e.xml").write_text(REPORT.format(96, 2, 1, 0))
    parts = [
        Part("lint", seconds=3.0, ok=True),
        Part("unit", tests=True, seconds=300.0, ok=True),
        Part("e2e", tests=True, seconds=500.0),
    ]
    *lines, last = summary(parts, 803.5).splitlines()
    assert lines == ["lint          3.0 s  passed", "unit        300.0 s  passed", "e2e         500.0 s  FAILED"]
    assert last.strip("= ") == "2 failed, 1957 passed, 6 skipped, 1 error in 803.50s (0:13:23)"


@pytest.mark.parametrize("left", [None, "<testsuites>"])
def test_a_run_that_left_no_report_is_an_error(out: Path, left: str | None) -> None:
    if left is not None:
        (out / "unit.xml").write_text(left)
    assert "= 1 error in 2.00s" in summary([Part("unit", tests=True)], 2.0)
