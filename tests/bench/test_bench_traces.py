"""The benchmarks find recordings in or beside the checkout."""

from __future__ import annotations

from pathlib import Path

from bench import TRACES_VARIABLE, traces_folder
from sponge_workload import files


def test_the_variable_is_that_of_the_workloads() -> None:
    assert TRACES_VARIABLE == files.TRACES_VARIABLE


def test_recordings_in_the_checkout_come_before_those_beside_it(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    assert traces_folder(checkout) is None
    beside = tmp_path / "shared" / "traces"
    beside.mkdir(parents=True)
    assert traces_folder(checkout) == beside
    (checkout / "traces").mkdir(parents=True)
    assert traces_folder(checkout) == checkout / "traces"
