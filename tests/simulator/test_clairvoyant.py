"""The bound against every schedule of small cases, and against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.clairvoyant import clairvoyant_core_seconds

# 100 ms alone on one thread; a second item adds 60 ms, a second thread takes 30 ms off.
MODEL = LatencyModel(gamma=0.05, delta=0.01, epsilon=0.01, eta=0.03)
MAX_BATCH, MAX_THREADS = 3, 2


def request(number: int, arrival: float, slo_s: float) -> Request:
    return Request(number, arrival, arrival + slo_s, arrival)


def bound(requests: Sequence[Request], min_cores: float = 0.0, duration_s: float = 1.0, max_batch: int = 1) -> float:
    return clairvoyant_core_seconds(
        requests,
        MODEL,
        max_batch=max_batch,
        max_threads=MAX_THREADS,
        min_cores=min_cores,
        duration_s=duration_s,
    )


def test_without_requests_the_smallest_size_is_billed() -> None:
    assert bound([], min_cores=0.5, duration_s=4.0) == 2.0


def test_a_lone_request_costs_its_batch_of_one() -> None:
    assert bound([request(0, 0.0, 0.5)], max_batch=8) == pytest.approx(MODEL.latency(1, 1))


def test_a_tight_request_has_to_pay_for_two_threads() -> None:
    assert bound([request(0, 0.0, 0.08)]) == pytest.approx(2 * MODEL.latency(1, 2))


def test_what_fits_into_the_smallest_size_costs_nothing_more() -> None:
    assert bound([request(0, 0.0, 0.5)], min_cores=1.0) == pytest.approx(1.0)
    both = [request(0, 0.0, 0.1), request(1, 0.0, 0.1)]  # 100 ms each in 100 ms: one of them needs a second core
    assert bound(both, min_cores=1.0) == pytest.approx(1.0 + MODEL.latency(1, 1))


def test_only_requests_whose_windows_meet_share_a_batch() -> None:
    apart = [request(0, 0.0, 0.3), request(1, 0.5, 0.3)]
    assert bound(apart, max_batch=2) == pytest.approx(2 * MODEL.latency(1, 1))
    together = [request(0, 0.0, 0.3), request(1, 0.1, 0.3)]
    assert bound(together, max_batch=2) == pytest.approx(MODEL.latency(2, 1))


def test_what_nobody_can_meet_is_left_out() -> None:
    assert bound([request(0, 0.0, 0.01)]) == 0.0


def partitions(items: list[Request]) -> Iterator[list[list[Request]]]:
    """Every way to form batches."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for others in partitions(rest):
        yield [[first], *others]
        for index, group in enumerate(others):
            yield [*others[:index], [first, *group], *others[index + 1 :]]


def billed(batches: Sequence[tuple[float, float, int]], min_cores: int, duration_s: float) -> float:
    """Core-seconds of a size that is at every moment the sum of the running threads, at least `min_cores`."""
    edges = sorted({0.0, duration_s, *(t for start, end, _ in batches for t in (start, end))})
    total = 0.0
    for left, right in pairwise(edges):
        threads = sum(k for start, end, k in batches if start <= left and end >= right)
        total += max(threads, min_cores) * (right - left)
    return total


drawn = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0.08, 0.1, 0.15, 0.2, 0.3])), min_size=1, max_size=3
).map(lambda rows: [request(i, at / 20, slo_s) for i, (at, slo_s) in enumerate(sorted(rows))])


@settings(max_examples=60)
@given(drawn, st.integers(0, 2))
def test_no_schedule_that_meets_all_is_billed_less(requests: list[Request], min_cores: int) -> None:
    least = bound(requests, float(min_cores), max_batch=MAX_BATCH)
    delays = [0.0, 0.03, 0.07, 0.1]
    for groups in partitions(requests):
        for threads in product(range(1, MAX_THREADS + 1), repeat=len(groups)):
            for waits in product(delays, repeat=len(groups)):
                batches = []
                for group, k, wait in zip(groups, threads, waits, strict=True):
                    start = max(r.arrival for r in group) + wait
                    end = start + MODEL.latency(len(group), k)
                    if end > min(r.deadline for r in group) + 1e-12:
                        break
                    batches.append((start, end, k))
                else:
                    assert billed(batches, min_cores, 1.0) >= least - 1e-9
