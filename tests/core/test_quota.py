"""A client's quota: over any time it sends no more than its rate and one burst, and always gets its rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.bounded_table import BoundedTable
from sponge_core.quota import Quota, TokenBucket

quotas = st.builds(Quota, st.floats(0.5, 1000), st.floats(1, 50))
steps = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), max_size=60)


@given(quotas, steps)
def test_no_more_than_the_rate_and_a_burst_gets_through(quota: Quota, moves: list[tuple[float, int]]) -> None:
    bucket, now, taken, last = TokenBucket(quota), 0.0, 0, 0
    for pause_s, rows in moves:
        now += pause_s
        if bucket.wait_s(now) == 0.0:
            bucket.take(rows)
            taken, last = taken + rows, rows
    # The last one may be more than was left: a debt that the next ones would wait for.
    assert taken - last <= quota.burst + quota.rate * now + 1e-6


@given(quotas, steps)
def test_who_waits_as_long_as_told_is_let_in(quota: Quota, moves: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(quota), 0.0
    for pause_s, rows in moves:
        now += pause_s
        wait_s = bucket.wait_s(now)
        assert wait_s >= 0.0
        now += wait_s * (1 + 1e-9) + 1e-9
        assert bucket.wait_s(now) == pytest.approx(0.0, abs=1e-6)
        bucket.take(rows)


@pytest.mark.parametrize(("at", "wait_s"), [(0.0, 0.1), (0.05, 0.05), (0.1, 0.0), (9.0, 0.0)])
def test_after_a_burst_the_rate_counts(at: float, wait_s: float) -> None:
    quota = Quota(rate=10.0, burst=3.0)
    bucket = TokenBucket(quota)
    for _ in range(3):
        assert bucket.wait_s(0.0) == 0.0
        bucket.take(1)
    assert bucket.wait_s(at) == pytest.approx(wait_s)


@given(st.integers(1, 5), st.lists(st.integers(0, 9), max_size=60))
def test_a_table_keeps_the_entries_used_last(most: int, keys: list[int]) -> None:
    table, wanted = BoundedTable[int, list[int]](most, list), dict[int, list[int]]()
    for number, key in enumerate(keys):
        table.use(key).append(number)
        kept = wanted.pop(key, [])
        wanted[key] = [*kept, number]
        while len(wanted) > most:
            del wanted[next(iter(wanted))]
        assert len(table) == len(wanted)
    for key in reversed(list(wanted)):
        assert table.use(key) == wanted[key]
