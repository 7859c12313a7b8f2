"""What size follows from a frontier: growing, shrinking, the look-back and its peaks."""

from __future__ import annotations

import pytest

from sponge_core.control_api import FrontierPoint
from sponge_core.planning.decider import SizeDecider


def points(*needs: tuple[int, float]) -> list[FrontierPoint]:
    return [FrontierPoint(cores_milli=c, batch_cap=8, misses=m) for c, m in needs]


def test_growth_is_immediate_and_shrinking_waits_for_the_look_back() -> None:
    decider = SizeDecider(look_back_s=1.0)
    assert decider.decide(0.0, 1000, points((1000, 3), (2000, 0))).cores_milli == 2000
    assert decider.decide(0.1, 2000, points((1000, 3), (2000, 0))).cores_milli == 2000
    held = decider.decide(0.2, 2000, points((1000, 0), (2000, 0)))
    assert (held.cores_milli, held.reason) == (2000, "hold")
    assert decider.decide(1.0, 2000, points((1000, 0))).cores_milli == 2000
    shrunk = decider.decide(1.15, 2000, points((1000, 0)))
    assert (shrunk.cores_milli, shrunk.reason) == (1000, "shrink")


def test_a_need_inside_the_look_back_holds_the_size_up() -> None:
    decider = SizeDecider(look_back_s=1.0)
    decider.decide(0.0, 1000, points((4000, 0)))
    decider.decide(0.8, 4000, points((3000, 0)))
    assert decider.decide(1.5, 4000, points((1000, 0))).cores_milli == 3000


def looks(decider: SizeDecider, current: int, *needs: tuple[float, int]) -> list[int]:
    """The size after each look, at (time, need)."""
    sizes = []
    for now, need in needs:
        current = decider.decide(now, current, points((need, 0))).cores_milli
        sizes.append(current)
    return sizes


def test_a_peak_is_met_and_given_back_at_the_next_look() -> None:
    steady = [(i / 10, 2000) for i in range(15)]
    decider = SizeDecider(look_back_s=1.0)
    assert looks(decider, 2000, *steady, (1.5, 4000), (1.6, 2000), (1.7, 2000))[-3:] == [4000, 2000, 2000]


def test_a_need_of_two_looks_is_no_peak() -> None:
    steady = [(i / 10, 2000) for i in range(15)]
    decider = SizeDecider(look_back_s=1.0)
    sizes = looks(decider, 2000, *steady, (1.5, 4000), (1.6, 3000), (1.7, 2000), (2.55, 2000), (2.65, 2000))
    assert sizes[-5:] == [4000, 3000, 3000, 3000, 2000]


def test_looks_far_apart_say_nothing_of_a_peak() -> None:
    decider = SizeDecider(look_back_s=1.0)
    sizes = looks(decider, 2000, (0.0, 2000), (1.0, 2000), (1.9, 4000), (2.8, 2000), (3.1, 2000))
    assert sizes[-3:] == [4000, 4000, 2000]


def test_overload_takes_the_size_with_the_fewest_misses_and_says_so() -> None:
    plan = SizeDecider().decide(0.0, 1000, points((1000, 9), (3000, 5), (4000, 5)))
    assert (plan.cores_milli, plan.feasible, plan.reason) == (3000, False, "overload")


@pytest.mark.parametrize("current", [1000, 2000, 4000])
def test_a_fresh_decider_never_shrinks_on_its_first_word(current: int) -> None:
    assert SizeDecider().decide(5.0, current, points((1000, 0))).cores_milli == current
