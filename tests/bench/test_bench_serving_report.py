"""The tables say what the runs say, and the report holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench.serving import tables
from bench.serving.campaign import Plan
from bench.serving.ledger import Ledger
from bench.serving.measure import Timing
from bench.serving.report import write_report
from bench.serving.schedule import MIXES

from sponge_core.errors import SpongeError

CLASSES = MIXES["classes"]
PLAN = Plan("test", 1.5, Timing(11.0, 1.0, 1.0), ("sponge", "fastapi"), ("classes",), (0.5, 2.0), (1, 2))


def params(system: str, load: float, seed: int) -> dict[str, Any]:
    common = {**PLAN.runs, "system": system, "knobs": {"queue": 8}, "mix": "classes", "load": load, "slower": 1.0}
    return {**common, "seed": seed, "duration_s": 11.0, "warmup_s": 1.0}


def result(tight: int, loose: int, sent: int = 800, void: bool = False) -> dict[str, Any]:
    """`tight` and `loose` of half of `sent` each in time, the rest shed."""
    rest = {"late": 0, "rejected_late": 0, "client_timeout": 0, "error": 0}
    in_time = tight + loose
    classes = {
        "300 ms": {"sent": sent // 2, "in_time": tight, "shed": sent // 2 - tight, **rest},
        "1000 ms": {"sent": sent // 2, "in_time": loose, "shed": sent // 2 - loose, **rest},
    }
    return {
        "sent": sent,
        "in_time": in_time,
        "shed": sent - in_time,
        **rest,
        "offered_rps": sent / 10,
        "goodput_rps": in_time / 10,
        "classes": classes,
        "void": void,
        "wrong": 0,
        "capacity_rps": 50.0,
        "cpu_s": 13.2,
    }


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "runs.jsonl")
    figure = {"rows_per_s": 50.0, "processes": 2, "threads": 1, "batch": 8}
    ledger.add("capacity", PLAN.runs, {"figures": [figure]})
    ledger.add("goodput", params("sponge", 0.5, 1), result(100, 100, sent=200))
    ledger.add("goodput", params("sponge", 2.0, 1), result(100, 400))
    ledger.add("goodput", params("sponge", 2.0, 2), result(60, 380))
    ledger.add("goodput", params("sponge", 2.0, 3), result(0, 0, void=True))
    ledger.add("goodput", params("fastapi", 2.0, 1), result(40, 40))
    return ledger


def test_a_point_is_of_all_its_seeds_without_void_runs(ledger: Ledger) -> None:
    light, heavy, peer = tables.points(ledger.of_kind("goodput"))
    assert (heavy.seeds, heavy.goodput_rps, heavy.least_rps, heavy.most_rps) == (2, 47.0, 44.0, 50.0)
    assert heavy.by_class == {"300 ms": 0.2, "1000 ms": 0.975}
    assert heavy.outcomes["shed"] == pytest.approx(1 - heavy.attainment)
    # Of the offered load below the capacity, of the capacity above it.
    assert [light.share, heavy.share, peer.share] == pytest.approx([1.0, 0.94, 0.16])


def test_tables(ledger: Ledger) -> None:
    found = tables.points(ledger.of_kind("goodput"))
    assert tables.goodput_table(found, CLASSES).splitlines() == [
        "|  | 0.5 x | 2 x |",
        "| --- | --: | --: |",
        "| offered/s | 20.0 | 80.0 |",
        "| sponge | 20.0 (100%) | 47.0 (94%) |",
        "| fastapi | - | 8.0 (16%) |",
    ]
    assert "| sponge | 100% / 100% | 20% / 98% |" in tables.class_table(found, CLASSES)
    assert "| sponge | 1.20 | 1.20 |" in tables.cores_table(found, CLASSES)
    assert "| fastapi | 10.0% | 0.0% | 90.0% |" in tables.outcome_table(found, CLASSES, 2.0)
    assert "| fastapi | classes | 2 | queue 8 |" in tables.knobs_table(ledger.of_kind("goodput"))


def test_the_report_is_one_page_with_plots_and_tables(ledger: Ledger, tmp_path: Path) -> None:
    page = write_report(ledger, PLAN, tmp_path / "report").read_text()
    assert page.count("<svg") == 2
    assert "47.0 (94%)" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "5 runs, 1 void" in text
    assert {path.suffix for path in (tmp_path / "report").iterdir()} >= {".md", ".html", ".svg", ".png"}


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match="run `goodput` first"):
        write_report(Ledger(tmp_path / "none.jsonl"), PLAN, tmp_path)
