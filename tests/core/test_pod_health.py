"""Whether a front trusts a pod: bad ones are found, overload blames nobody, and trust comes back by one good answer."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.routing.pod_health import FIRST_S, LONGEST_S, PodHealth


def after(endings: str, others: float = 0.0) -> PodHealth:
    """A pod with these endings, ten each second: g in time, l late or refused, f failed."""
    health = PodHealth()
    for number, ending in enumerate(endings):
        tell(health, ending, number / 10, others)
    return health


def tell(health: PodHealth, ending: str, now: float, others: float = 0.0) -> None:
    if ending == "g":
        health.in_time(now)
    else:
        health.missed(now, others, failed=ending == "f")


@pytest.mark.parametrize(
    ("endings", "others", "trusted"),
    [
        ("", 0.0, True),
        ("g" * 20, 0.0, True),
        ("gggf", 0.0, True),  # may be the fault of the request
        ("gff", 0.0, False),
        ("gfgfg", 0.0, True),
        ("l" * 3, 0.0, True),
        ("l" * 8, 0.0, False),
        ("gggggggglllll", 0.0, True),
        ("l" * 8, 0.9, True),  # overload: the others miss as many
        ("gggglllllllll", 0.1, False),
    ],
)
def test_a_pod_is_judged_beside_the_others(endings: str, others: float, trusted: bool) -> None:
    assert after(endings, others).trusted(len(endings) / 10, 0) is trusted


def test_trust_comes_back_by_one_good_answer() -> None:
    health = after("ff")
    back = 0.1 + FIRST_S
    assert not health.trusted(back - 0.01, 0)
    assert health.trusted(back, 0)
    assert not health.trusted(back, 1)  # one at a time
    tell(health, "g", back + 0.2)
    assert health.trusted(back + 0.2, 7)


def test_distrust_lasts_longer_each_time() -> None:
    health, now, waits = PodHealth(), 0.0, []
    for _ in range(8):
        tell(health, "f", now)
        tell(health, "f", now)
        began = now
        while not health.trusted(now, 0):
            now += 0.5
        waits.append(now - began)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (FIRST_S, LONGEST_S)


@given(st.lists(st.tuples(st.sampled_from("glf"), st.floats(0, 5), st.floats(0, 1)), max_size=40))
def test_no_pod_is_lost_forever(told: Iterable[tuple[str, float, float]]) -> None:
    health, now = PodHealth(), 0.0
    for ending, pause_s, others in told:
        now += pause_s
        tell(health, ending, now, others)
        in_time, missed = health.recent(now)
        assert in_time >= 0.0
        assert missed >= 0.0
    assert health.trusted(now + LONGEST_S, 0)
