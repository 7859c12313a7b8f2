"""The live experiment on fronts: what every way is sent, and how its runs are summed up."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from bench.front_pods import ARRIVALS, MIXES, PODS, TIGHT_SHARE, dealt, rows_of, schedule, size_of, ways_of
from bench.serving.ledger import Ledger

OPTIONS = Namespace(cores=0.3, source="a model", seconds=13.0, rule="best-fit")


def test_the_same_seed_gives_the_same_requests_of_both_classes() -> None:
    mix = MIXES["tight"]
    for arrivals in ARRIVALS:
        one, other = (schedule(mix, arrivals, 40.0, 30.0, 1, 4) for _ in range(2))
        assert one == other
        tight = sum(shot.slo_s == mix.tight_s for shot in one.shots)
        assert abs(tight / len(one.shots) - TIGHT_SHARE) < 0.05
        assert {shot.slo_s for shot in one.shots} == {mix.tight_s, mix.loose_s}


def test_each_request_is_dealt_to_one_pod() -> None:
    planned = schedule(MIXES["wide"], "poisson", 40.0, 10.0, 1, 4)
    hands = dealt(planned, PODS, 1)
    assert sorted(shot.index for hand in hands for shot in hand.shots) == [shot.index for shot in planned.shots]
    assert all(hand.shots for hand in hands)


def test_the_seeds_of_a_case_are_summed_up_and_others_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs.jsonl")
    case = {"mix": "tight", "arrivals": "burst", "way": ways_of(OPTIONS)[0]}
    for seed in (1, 2):
        result = {"capacity_rps": 40.0, "outcomes": {"in_time": 98, "late": 2}, "latency_ms": [100.0] * 100}
        ledger.add("front", size_of(OPTIONS) | {"seed": seed} | case, result)
    ledger.add("front", size_of(OPTIONS) | {"seed": 1, "cores": 0.5} | case, {"outcomes": {"shed": 1}})
    (row,) = rows_of(OPTIONS, ledger)
    assert (row.mix, row.arrivals, row.requests, row.missed, row.missed_percent) == ("tight", "burst", 200, 4, 2.0)
    assert row.latency_ms.p50 == 100.0
