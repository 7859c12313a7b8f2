"""Reports of pods: of another version, or with numbers that no pod can have."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, Sent
from sponge_core.routing.pod_load import PodLoad
from sponge_core.routing.registry import RULES
from sponge_core.routing.rules import best_fit

LATENCY = {"gamma_s": 0.012, "delta_s": 0.003, "epsilon_s": -0.001, "eta_s": 0.01, "max_batch": 8}
BATCH = {"requests": 1, "threads": 1, "left_s": 0.1, "slack_s": 0.5}
GOOD: dict[str, Any] = {
    "now_s": 5.0,
    "accepting": True,
    "cores_milli": 500,
    "most_milli": 500,
    "batch_cap": 8,
    "lanes": 1,
    "slack_s": [0.5],
    "had_s": [1.0],
    "latency": LATENCY,
    "slo_s": {"": 1.0},
}


def read(**changes: object) -> PodLoad:
    return PodLoad.model_validate_json(json.dumps(GOOD | changes))


@pytest.mark.parametrize("changes", [{"colour": "red"}, {"running": [BATCH | {"colour": "red"}]}])
def test_what_a_newer_pod_says_besides_is_ignored(changes: dict[str, object]) -> None:
    assert read(**changes).cores_milli == 500


def test_an_older_pod_may_say_less() -> None:
    required = ("now_s", "accepting", "cores_milli", "most_milli", "batch_cap", "lanes")
    assert PodLoad.model_validate({name: GOOD[name] for name in required}).model() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma_s": float("nan")},
        {"eta_s": float("inf")},
        {"max_batch": 0},
        {"by_threads": [0.0]},
        {"by_cell": [[1.0, float("nan")]]},
        {"by_size": [1.0]},
    ],
)
def test_a_latency_model_that_cannot_be_read_counts_as_none(changes: dict[str, object]) -> None:
    found = read(latency=LATENCY | changes)
    assert (found.cores_milli, found.model()) == (500, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"slack_s": [float("nan")]},
        {"had_s": [float("-inf")]},
        {"cores_milli": 10**30},
        {"most_milli": 10**9},
        {"rate_rps": float("inf")},
        {"error": float("inf")},
        {"interference": float("nan")},
        {"more": -1},
        {"running": [BATCH | {"left_s": float("inf")}]},
        {"running": [BATCH | {"slack_s": float("nan")}]},
        {"running": [BATCH] * 1025},
        {"slo_s": {"": float("nan")}},
        {"slo_s": {"gold": 0.0}},
        {"slo_s": {"": -1.0}},
    ],
)
def test_numbers_that_no_pod_can_have_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        read(**changes)


def test_of_very_many_requests_only_the_number_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_replay(*_: object) -> None:
        raise AssertionError("a replay of so many takes too long")

    monkeypatch.setattr(best_fit, "PodReplay", no_replay)
    request = Request(1, 100.0, 101.0, 100.0)
    sent = [Sent(number, 100.0, 160.0) for number in range(600)]
    for busy in (PodView("a", read(more=10**15), 100.0, outstanding=2), PodView("a", read(), 100.0, 0.0, sent, 600)):
        pods = [busy, PodView("b", read(), 100.0, outstanding=1)]
        assert RULES["best-fit"].make(Random(1).random).choose(100.0, request, pods) == 1
