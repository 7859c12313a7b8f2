"""The live experiment on fronts: what every way is sent, how the capacity is read, and how runs are summed up."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from bench.experiments.front import ARRIVALS, MIXES, PODS
from bench.front_pods import Case, answer_rate, dealt, rows_of, size_of, ways_of
from bench.serving.ledger import Ledger

from sponge_client.outcomes import RequestRecord

OPTIONS = Namespace(cores=0.5, source="a model", seconds=21.0, rule="best-fit")


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_the_same_requests_come_slower(arrivals: str) -> None:
    fast, slow = (Case("tight", arrivals, 1, 10.0 * slower, slower).schedule(4).shots for slower in (1.0, 3.0))
    assert [3 * shot.at_s for shot in fast] == pytest.approx([shot.at_s for shot in slow])
    assert {round(shot.slo_s, 6) for shot in slow} == {3 * kind.slo_ms / 1000 for kind in MIXES["tight"]}
    assert [shot.body for shot in fast] == [shot.body for shot in slow]


def test_an_upload_takes_the_same_share_of_the_time() -> None:
    fast, slow = (Case("wide", "poisson", 1, 10.0, slower).uplink() for slower in (1.0, 3.0))
    assert fast is not None
    assert slow is not None
    for at_s in (0.0, 1.7, 30.2):
        assert slow.upload_s(3 * at_s, 150_000) == pytest.approx(3 * fast.upload_s(at_s, 50_000))


def test_each_request_is_dealt_to_one_pod() -> None:
    planned = Case("wide", "poisson", 1, 10.0, 2.0).schedule(4)
    hands = dealt(planned, PODS, 1)
    assert sorted(shot.index for hand in hands for shot in hand.shots) == [shot.index for shot in planned.shots]
    assert all(hand.shots for hand in hands)


@pytest.mark.parametrize("until_s", [9.0, 9.4, 9.9])
def test_the_capacity_does_not_depend_on_when_a_batch_ends(until_s: float) -> None:
    batches = [
        RequestRecord(8 * batch + place, 0.0, 0.0, 0, 0.0, 60.0, "in_time", 200, 0.8 * batch + 0.001 * place)
        for batch in range(1, 20)
        for place in range(8)
    ]
    assert answer_rate(batches, 2.0, until_s) == pytest.approx(10.0, rel=0.02)


def test_the_seeds_of_a_case_are_summed_up_and_others_left_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "runs.jsonl")
    case = {"mix": "tight", "arrivals": "burst"}
    way = {
        "outcomes": {"in_time": 98, "late": 2},
        "latency_ms": [100.0] * 100,
        "busy": 0.9,
        "simulated_missed": 1,
        "in_turn": 3,
    }
    for seed, after in ((1, 30.0), (2, 20.0)):
        result = {"capacity_rps": [30.0, after], "offered_rps": 27.0, "ways": dict.fromkeys(ways_of(OPTIONS), way)}
        ledger.add("front_pods", size_of(OPTIONS) | case | {"seed": seed}, result)
    ledger.add("front_pods", size_of(OPTIONS) | case | {"seed": 1, "cores": 0.3}, {})
    row = rows_of(OPTIONS, ledger)[1]
    assert (row.mix, row.arrivals, row.way, row.requests) == ("tight", "burst", "best-fit", 200)
    assert (row.missed, row.simulated_missed, row.in_turn) == (4, 2, 6)
    assert row.load == pytest.approx((0.9 + 27 / 25) / 2)
    assert row.latency_ms.p50 == 100.0
