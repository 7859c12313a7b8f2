"""The load is decided beforehand: the same for all systems, with the deadlines that its mix promises."""

from __future__ import annotations

from itertools import pairwise

import pytest
from bench.serving.schedule import MIXES, Mix, fingerprint, make_shots, varying_shots
from bench.serving.workloads import RESNET18

from sponge_workload.synthetic import synthetic_4g

UPLINK = synthetic_4g(600, 1)
INPUTS = len(RESNET18.bodies())


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_the_same_seed_gives_the_same_load_and_another_another(mix: Mix) -> None:
    first, again, other = (make_shots(mix, 40, 10, seed, UPLINK, INPUTS) for seed in (1, 1, 2))
    assert first == again
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_shots_are_in_order_and_in_a_class(mix: Mix) -> None:
    shots = make_shots(mix, 60, 10, 3, UPLINK, INPUTS)
    assert all(a.at_s <= b.at_s for a, b in pairwise(shots))
    assert {shot.body for shot in shots} == set(range(INPUTS))
    assert all(shot.slo_s <= mix.bounds_s[-1] for shot in shots)
    assert {mix.class_of(shot.slo_s) for shot in shots} <= set(mix.classes)


def test_half_of_the_classes_mix_is_tight() -> None:
    shots = make_shots(MIXES["classes"], 100, 100, 1, UPLINK, INPUTS)
    assert {shot.slo_s for shot in shots} == {0.3, 1.0}
    assert sum(shot.slo_s == 0.3 for shot in shots) / len(shots) == pytest.approx(0.5, abs=0.03)


def test_over_4g_a_deadline_is_one_second_after_the_client_sent() -> None:
    """Whatever the upload took: a request arrives so much later, and with so much less time."""
    quick, slow = (
        make_shots(MIXES["4g"], 50, 10, 1, type(UPLINK)("flat", (rate,), (60.0,)), INPUTS)
        for rate in (6_000_000.0, 600_000.0)
    )
    assert [shot.slo_s for shot in slow] == pytest.approx([1 - 303_600 / 600_000] * len(slow))
    assert [a.at_s + a.slo_s for a in quick] == pytest.approx([b.at_s + b.slo_s for b in slow])


def test_every_seed_sees_another_bad_moment_of_the_uplink() -> None:
    tightest = [min(shot.slo_s for shot in make_shots(MIXES["4g"], 80, 11, seed, UPLINK, INPUTS)) for seed in (1, 2, 3)]
    assert len(set(tightest)) == 3
    assert max(tightest) < 0.75


def test_a_varying_load_has_each_rate_in_its_turn() -> None:
    shots = varying_shots(MIXES["classes"], (10, 200, 50), 20, 1, UPLINK, INPUTS)
    counts = [sum(20 * step <= shot.at_s < 20 * (step + 1) for shot in shots) for step in range(3)]
    assert counts == pytest.approx([200, 4000, 1000], rel=0.2)
