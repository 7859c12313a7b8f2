"""Batches that share a quota: thread budgets, speeds and predicted ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import RunningSet, speed_of, stall_of, thread_budget


@pytest.mark.parametrize(
    ("cores", "budget"), [(0.05, 1), (0.5, 1), (1.0, 1), (1.0000000001, 1), (1.125, 2), (2.0, 2), (15.9, 16)]
)
def test_the_thread_budget_covers_the_quota(cores: float, budget: int) -> None:
    assert thread_budget(cores) == budget


def test_threads_above_the_quota_share_it() -> None:
    assert speed_of(2.0, 2) == 1.0
    assert speed_of(1.5, 2) == 0.75
    assert stall_of(1.0) == 0.0
    assert stall_of(0.75) == pytest.approx(0.025)


def test_a_batch_slows_when_another_starts_and_recovers_when_it_ends() -> None:
    running = RunningSet(cores=1.5)
    running.start(1, threads=1, work_s=1.0, deadline=9.0, now=0.0)
    assert running.next_finish(0.0) == (1, 1.0)
    running.start(2, threads=1, work_s=0.1, deadline=9.0, now=0.4)  # both at 0.75 from here
    key, at = running.next_finish(0.4) or (0, 0.0)
    assert (key, at) == (2, pytest.approx(0.4 + 0.1 / 0.75))
    running.finish(2, at)
    assert running.next_finish(at) == (1, pytest.approx(at + 0.5))


def test_a_resize_changes_what_is_left_from_then_on() -> None:
    running = RunningSet(cores=1.0)
    running.start(1, threads=1, work_s=1.0, deadline=9.0, now=0.0)
    running.set_cores(0.5, now=0.5)
    assert running.next_finish(0.5) == (1, pytest.approx(1.5))


def test_an_overrunning_batch_has_nothing_left_until_it_ends() -> None:
    running = RunningSet(cores=1.0)
    running.start(1, threads=1, work_s=0.1, deadline=9.0, now=0.0)
    assert running.snapshot(5.0)[0].left_s == 0.0
    assert running.threads == 1
    running.finish(1, 5.0)
    assert running.threads == 0
    with pytest.raises(KeyError):
        running.finish(1, 5.0)


@given(
    st.floats(0.1, 4),
    st.lists(st.tuples(st.integers(1, 3), st.floats(0.01, 1)), min_size=1, max_size=5),
    st.floats(0.01, 5),
)
def test_no_more_work_is_done_than_the_quota_gives(
    cores: float, batches: list[tuple[int, float]], elapsed: float
) -> None:
    running = RunningSet(cores)
    for key, (threads, work_s) in enumerate(batches):
        running.start(key, threads, work_s, 9.0, 0.0)
    done = sum(t * w for t, w in batches) - sum(b.threads * b.left_s for b in running.snapshot(elapsed))
    assert done <= cores * elapsed + 1e-9
