"""A campaign goes on where it stopped, repeats nothing, and takes the configuration that tuning found best."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench.serving.campaign import Plan, capacity_of, goodput_visits, tune_visits, tuned
from bench.serving.ledger import Ledger
from bench.serving.measure import Timing
from bench.serving.schedule import MIXES
from bench.serving.systems import SYSTEMS
from bench.serving.workloads import BERT, RESNET18, Served
from fake_system import FakeSystem

from sponge_core.errors import SpongeError

PLAN = Plan("test", 1.5, Timing(10.0, 1.0, 1.0), ("fake",), ("classes", "4g"), (0.5, 1.3), (1, 2))


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setitem(SYSTEMS["resnet18"], "fake", FakeSystem)
    ledger = Ledger(tmp_path / "runs.jsonl")
    figures = [{"rows_per_s": rate, "processes": 2, "threads": 1, "batch": 8} for rate in (80.0, 60.0)]
    ledger.add("capacity", PLAN.runs, {"figures": figures})
    return ledger


def test_loads_follow_from_the_capacity(ledger: Ledger) -> None:
    rates = {run["load"]: run["rate_rps"] for visit in goodput_visits(ledger, PLAN, False) for run in visit.runs}
    assert rates == {0.5: 40.0, 1.3: 104.0}


def test_a_campaign_without_capacity_says_how_to_measure_it(tmp_path: Path) -> None:
    with pytest.raises(SpongeError, match="capacity --campaign test"):
        capacity_of(Ledger(tmp_path / "none.jsonl"), PLAN)


def test_on_a_slower_machine_deadlines_are_later_and_rates_lower(ledger: Ledger) -> None:
    plan = replace(PLAN, served=Served(BERT, "onnx"), systems=("sponge",), mixes=BERT.mixes, loads=BERT.loads)
    ledger.add("capacity", plan.runs, {"figures": [{"rows_per_s": 93.9 / 2}]})
    (visit, *_) = goodput_visits(ledger, plan, False)
    assert (visit.runs[0]["slower"], visit.runs[0]["rate_rps"]) == (2.0, 10.0)
    assert MIXES["texts"].slowed(2.0).bounds_s == (0.4, 2.0)


def test_runs_of_another_runtime_are_another_campaign(ledger: Ledger) -> None:
    with pytest.raises(SpongeError, match="resnet18 in onnx"):
        capacity_of(ledger, replace(PLAN, served=Served(RESNET18, "onnx")))


def test_what_has_ended_is_not_repeated_even_by_another_process(ledger: Ledger, tmp_path: Path) -> None:
    (first, *others) = goodput_visits(ledger, PLAN, False)
    assert len(first.runs) == 4  # two mixes, two seeds
    ledger.add("goodput", first.runs[0], {"goodput_rps": 39.0})
    again = Ledger(tmp_path / "runs.jsonl")
    (resumed, *later) = goodput_visits(again, PLAN, False)
    assert resumed.runs == first.runs[1:]
    assert later == others
    for run in resumed.runs:
        again.add("goodput", run, {"goodput_rps": 39.0})
    assert goodput_visits(again, PLAN, False) == others


def test_other_parameters_are_another_run(ledger: Ledger) -> None:
    for visit in goodput_visits(ledger, PLAN, False):
        for run in visit.runs:
            ledger.add("goodput", run, {"goodput_rps": 39.0})
    assert goodput_visits(ledger, PLAN, False) == []
    longer = Plan("test", 1.5, Timing(20.0, 1.0, 1.0), ("fake",), ("classes", "4g"), (0.5, 1.3), (1, 2))
    assert len(goodput_visits(ledger, longer, False)) == 2


def test_a_cut_off_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"kind": "x", "params": {}, "result": {}}) + '\n{"kind": "goo')
    with pytest.raises(SpongeError, match="line 2"):
        Ledger(path)


def test_tuning_tries_each_configuration_at_every_load_lightest_first(ledger: Ledger) -> None:
    visits = tune_visits(ledger, PLAN, 2)
    assert [visit.knobs for visit in visits] == [{"size": 1}, {"size": 2}]
    assert [(run["load"], run["mix"]) for run in visits[0].runs] == [
        (0.5, "classes"),
        (0.5, "4g"),
        (1.3, "classes"),
        (1.3, "4g"),
    ]


def test_where_everything_was_in_time_nothing_else_is_tried(ledger: Ledger) -> None:
    (first, _) = tune_visits(ledger, PLAN, 2)
    for run in first.runs:
        ledger.add("tune", run, {"goodput_rps": 20.0, "attainment": 1.0 if run["load"] == 0.5 else 0.98})
    (second,) = tune_visits(ledger, PLAN, 2)
    assert (second.knobs, {run["load"] for run in second.runs}) == ({"size": 2}, {1.3})


def test_goodput_runs_with_what_tuning_found_best_at_that_load(ledger: Ledger) -> None:
    goodput = {1: 30.0, 2: 35.0, 3: 33.0}
    for visit in tune_visits(ledger, PLAN, 3):
        for run in visit.runs:
            ledger.add(
                "tune",
                run,
                {"goodput_rps": goodput[visit.knobs["size"]] if run["load"] == 1.3 else 20.0, "attainment": 0.9},
            )
    assert tuned(ledger, PLAN, "fake", "4g", 1.3) == {"size": 2}
    sizes = {run["load"]: run["knobs"]["size"] for visit in goodput_visits(ledger, PLAN, False) for run in visit.runs}
    assert sizes == {0.5: 1, 1.3: 2}
    assert {visit.knobs["size"] for visit in goodput_visits(ledger, PLAN, True)} == {1}


def test_a_visit_is_cut_to_the_time_that_is_left(ledger: Ledger) -> None:
    (first, *_) = goodput_visits(ledger, PLAN, False)
    assert [len(first.within(budget_s).runs) for budget_s in (10, 40, 60, 1000)] == [0, 1, 3, 4]
