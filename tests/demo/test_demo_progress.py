"""How far a demo is, and how long it will still take."""

from __future__ import annotations

import pytest

from sponge_demo.progress import Phase, Phases, duration_text

PHASES = (Phase("open", 10.0), Phase("start", 30.0), Phase("run 1", 100.0), Phase("run 2", 100.0), Phase("close", 10.0))


def test_the_time_left_is_known_from_the_first_second() -> None:
    phases = Phases(PHASES, now=5.0)
    assert phases.left_s(5.0) == 250.0
    assert phases.share(5.0) == 0.0
    assert phases.left_s(9.0) == 246.0


def test_a_phase_that_is_overdue_takes_a_little_longer() -> None:
    phases = Phases(PHASES, now=0.0)
    assert phases.left_s(20.0) == pytest.approx(2.0 + 240.0)
    assert phases.share(20.0) == pytest.approx(20.0 / 262.0)


def test_an_early_phase_leaves_less() -> None:
    phases = Phases(PHASES, now=0.0)
    phases.enter("start", 2.0)
    assert phases.current.name == "start"
    assert phases.left_s(2.0) == 240.0
    phases.enter("close", 10.0)  # the runs were skipped
    assert phases.left_s(10.0) == 10.0
    assert phases.share(20.0) == pytest.approx(20.0 / 21.0)


def test_a_phase_that_was_not_planned_takes_the_place_of_the_next_one() -> None:
    phases = Phases(PHASES, now=0.0)
    phases.enter("start", 10.0)
    phases.enter("Sponge", 40.0)
    assert (phases.current.name, phases.left_s(40.0)) == ("Sponge", 210.0)
    phases.enter("fixed 1", 140.0)
    assert phases.left_s(140.0) == 110.0
    phases.enter("fixed 1.25", 240.0)  # one run more than was planned
    assert (phases.current.name, phases.left_s(240.0)) == ("fixed 1.25", 110.0)
    phases.enter("close", 340.0)
    assert phases.left_s(340.0) == 10.0


def test_the_share_never_falls_while_phases_take_as_long_as_expected() -> None:
    phases = Phases(PHASES, now=0.0)
    now, shares = 0.0, [0.0]
    for phase in PHASES:
        if phase.name != "open":
            phases.enter(phase.name, now)
        shares += [phases.share(now + part * phase.expected_s) for part in (0.0, 0.5, 0.99)]
        now += phase.expected_s
    assert shares == sorted(shares)
    assert shares[-1] > 0.98


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "a few seconds"),
        (4.0, "a few seconds"),
        (12.0, "about 10 s"),
        (56.0, "about 1 min"),
        (88.0, "about 1 min 30 s"),
        (404.0, "about 6 min 40 s"),
        (1508.0, "about 25 min"),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
