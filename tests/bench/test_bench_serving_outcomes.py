"""Every request that was sent has one outcome, and the figures are of all of them."""

from __future__ import annotations

import pytest
from bench.serving.outcomes import OUTCOMES, Answer, outcome_of, summarise
from bench.serving.schedule import MIXES
from hypothesis import given
from hypothesis import strategies as st

REFUSALS = {429, 503}


@pytest.mark.parametrize(
    ("status", "right", "latency_s", "gave_up", "outcome"),
    [
        (200, True, 0.3, False, "in_time"),
        (200, True, 0.31, False, "late"),
        (200, False, 0.1, False, "error"),
        (503, False, 0.01, False, "shed"),
        (429, False, 0.4, False, "rejected_late"),
        (504, False, 0.1, False, "error"),
        (500, False, 0.1, False, "error"),
        (0, False, 0.1, False, "error"),
        (0, False, 1.3, True, "client_timeout"),
    ],
)
def test_what_became_of_a_request(status: int, right: bool, latency_s: float, gave_up: bool, outcome: str) -> None:
    assert outcome_of(Answer(0.0, 0.3, 0.0, latency_s, status, right, gave_up), REFUSALS) == outcome


ANSWERS = st.builds(
    Answer,
    at_s=st.floats(0, 12),
    slo_s=st.sampled_from([0.3, 1.0]),
    lag_s=st.floats(0, 0.01),
    latency_s=st.floats(0, 3),
    status=st.sampled_from([0, 200, 429, 500, 503]),
    right=st.booleans(),
    gave_up=st.booleans(),
)


@given(st.lists(ANSWERS, max_size=60))
def test_outcomes_add_up_to_what_was_sent(answers: list[Answer]) -> None:
    figures = summarise(answers, REFUSALS, MIXES["classes"], 2.0, 12.0)
    assert figures["sent"] == sum(answer.at_s >= 2.0 for answer in answers)
    assert sum(figures[name] for name in OUTCOMES) == figures["sent"]
    for name in ("sent", *OUTCOMES):
        assert sum(of_class[name] for of_class in figures["classes"].values()) == figures[name]
    assert figures["goodput_rps"] == pytest.approx(figures["in_time"] / 10, abs=1e-3)


def test_the_warm_up_does_not_count() -> None:
    answers = [Answer(at, 1.0, 0.0, 0.5, 200, True) for at in (0.5, 2.5, 3.5)]
    figures = summarise(answers, REFUSALS, MIXES["classes"], 2.0, 12.0)
    assert (figures["sent"], figures["in_time"], figures["goodput_rps"]) == (2, 2, 0.2)


def test_no_request_at_all_is_no_miss() -> None:
    figures = summarise([], REFUSALS, MIXES["4g"], 2.0, 12.0)
    assert (figures["attainment"], figures["p99_ms"]) == (1.0, None)
