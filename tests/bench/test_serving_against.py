"""Comparing two checkouts: the figures, and what is wrong with the other checkout. The servers are in the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.serving.against import Comparison, compare

from sponge_core.errors import SpongeError


def test_the_change_is_that_of_the_rounds_not_of_the_means() -> None:
    slow_machine_once = Comparison("one at a time, ms", ours=[100.0, 201.0], theirs=[100.0, 200.0])
    change, error = slow_machine_once.change()
    assert change == pytest.approx(0.0025)
    assert error == pytest.approx(0.0025)


def test_a_line_says_both_figures_and_the_change() -> None:
    line = str(Comparison("saturated, per second", ours=[22.0, 22.0], theirs=[20.0, 20.0]))
    assert "20.0" in line
    assert "22.0" in line
    assert "+10.0% ± 0.0%" in line


def test_a_checkout_without_an_environment_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match="make setup"):
        compare(tmp_path, 2, 1.5, tmp_path)
