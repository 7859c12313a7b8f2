"""Virtual time: the account is complete, cores are charged as they were, and runs repeat."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.batching import Decision, Limits, decide
from sponge_core.latency import LatencyModel
from sponge_core.queueing import Request
from sponge_simulator.engine import Size, View, simulate
from sponge_simulator.policies import PaperPolicy, SpongePolicy

MODEL = LatencyModel(gamma=0.04, delta=0.01, epsilon=0.0, eta=0.005)


class Scripted:
    """Sizes by a script, dispatches by the product's rule."""

    interval_s = 1.0

    def __init__(self, sizes: list[Size]) -> None:
        self._sizes = sizes

    def observe(self, now: float, request: Request) -> None:
        """Takes no notice."""

    def plan(self, view: View) -> Size:
        return self._sizes.pop(0) if self._sizes else view.size

    def dispatch(self, view: View) -> Decision:
        limits = Limits(view.size.batch_cap, 8, 8.0)
        return decide(view.now, view.queue, view.running, view.size.cores, [MODEL], limits)

    def ended(self, requests: Sequence[Request], in_time: bool) -> None:
        """Learns nothing."""


def requests(*arrivals: float, slo_s: float = 0.5) -> list[Request]:
    return [Request(i, at, at + slo_s, at) for i, at in enumerate(sorted(arrivals))]


def test_one_request_takes_what_the_model_says() -> None:
    result = simulate(requests(1.0), Scripted([]), Size(1.0, 8), 2.0)
    assert (result.sent, result.in_time, result.late, result.shed) == (1, 1, 0, 0)
    assert result.latencies_s == (pytest.approx(MODEL.latency(1, 1)),)
    assert result.mean_cores == pytest.approx(1.0)


def test_cores_are_charged_from_when_a_resize_is_in_force() -> None:
    result = simulate([], Scripted([Size(1.0, 8), Size(3.0, 8)]), Size(1.0, 8), 4.0, resize_s=0.5)
    assert result.resizes == 1
    assert result.core_seconds == pytest.approx(1.5 * 1 + 2.5 * 3)


def test_slower_service_than_predicted_is_late_and_counted() -> None:
    tight = requests(1.0, slo_s=0.06)
    assert simulate(tight, Scripted([]), Size(1.0, 8), 2.0, service_ratio=lambda: 2.0).late == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.02, 1.0), st.integers(1, 4))
def test_every_request_has_one_outcome(arrivals: list[float], slo_s: float, cores: int) -> None:
    sent = requests(*arrivals, slo_s=slo_s)
    for policy in (
        SpongePolicy(MODEL, [1000, 2000, 3000, 4000], 8),
        PaperPolicy(MODEL, 20.0, slo_s, 4, 8),
    ):
        result = simulate(sent, policy, Size(float(cores), 8), 5.0)
        assert result.in_time + result.late + result.shed == result.sent == len(sent)
        assert 5.0 <= result.core_seconds <= 4 * 5.0 + 1e-6


def test_a_run_repeats_itself() -> None:
    sent = requests(*(0.03 * i for i in range(100)))
    runs = [simulate(sent, SpongePolicy(MODEL, [1000, 2000], 8), Size(2.0, 8), 3.0) for _ in range(2)]
    assert runs[0] == runs[1]


def test_with_exact_service_times_a_met_load_has_no_miss_at_few_cores() -> None:
    sent = requests(*(0.05 * i for i in range(600)), slo_s=0.8)
    result = simulate(sent, SpongePolicy(MODEL, [1000, 2000, 3000, 4000], 8), Size(4.0, 8), 30.0)
    assert result.violations == 0
    assert result.mean_cores < 1.5  # 20/s at 55 ms are 1.1 cores of work
