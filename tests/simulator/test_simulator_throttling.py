"""The kernel's bandwidth control in virtual time: full speed while the period's quota lasts, then none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_simulator.throttling import ThrottledSet


def finish_of(cores: float, work_s: float, threads: int = 1, overhead: float = 0.0, start_s: float = 0.0) -> float:
    """When a batch that runs alone ends."""
    running = ThrottledSet(cores, overhead)
    running.start(0, threads, work_s, start_s + 9, start_s)
    found = running.next_finish(start_s)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("cores", "work_s", "threads", "overhead", "start_s", "ends_s"),
    [
        (1.0, 0.25, 1, 0.0, 0.0, 0.25),  # a core for its thread: never throttled
        (2.0, 0.25, 2, 0.0, 0.03, 0.28),
        (0.5, 0.03, 1, 0.0, 0.0, 0.03),  # short: over before the quota is
        (0.5, 0.05, 1, 0.0, 0.06, 0.11),  # 40 ms in this period, the rest as the next one begins
        (0.5, 0.12, 1, 0.0, 0.0, 0.22),  # 50 ms in each of two periods, then 20
        (1.5, 0.1, 2, 0.0, 0.0, 0.125),  # both threads use up 150 ms of CPU in 75 ms
        (0.5, 0.05, 1, 0.25, 0.0, 0.11),  # what is used beside it leaves 40 ms of 50
    ],
)
def test_a_batch_runs_while_the_quota_of_a_period_lasts(
    cores: float, work_s: float, threads: int, overhead: float, start_s: float, ends_s: float
) -> None:
    assert finish_of(cores, work_s, threads, overhead, start_s) == pytest.approx(ends_s)


def test_a_new_quota_is_given_out_at_once() -> None:
    running = ThrottledSet(0.25)
    running.start(0, 1, 0.06, 9.0, 0.0)
    running.set_cores(1.0, 0.03)  # throttled since 0.025
    assert running.next_finish(0.03) == (0, pytest.approx(0.03 + 0.035))


def test_batches_share_the_quota_and_the_shortest_ends_first() -> None:
    running = ThrottledSet(1.0)
    running.start(1, 1, 0.08, 9.0, 0.0)
    running.start(2, 1, 0.02, 9.0, 0.0)
    assert running.next_finish(0.0) == (2, pytest.approx(0.02))
    running.finish(2, 0.02)
    # 40 of 100 ms are used up: the other one has the rest for itself.
    assert (running.threads, running.next_finish(0.02)) == (1, (1, pytest.approx(0.08)))


def test_nothing_runs_once_the_quota_of_a_period_is_used_up() -> None:
    running = ThrottledSet(0.25)
    assert running.ran_until(0.04) == 0.04
    running.start(0, 1, 0.2, 9.0, 0.1)
    assert [running.ran_until(at) for at in (0.11, 0.15, 0.19, 0.21)] == pytest.approx([0.11, 0.125, 0.125, 0.21])


@given(
    cores=st.sampled_from([0.05, 0.25, 0.375, 0.5, 1.25]),
    work_s=st.floats(0.001, 0.5),
    looks=st.lists(st.floats(0.0, 1.0), max_size=5),
    start_s=st.floats(0.0, 5.0),
)
def test_looking_changes_nothing(cores: float, work_s: float, looks: list[float], start_s: float) -> None:
    ends_s = finish_of(cores, work_s, 2, 0.01, start_s)
    running = ThrottledSet(cores, 0.01)
    running.start(0, 2, work_s, start_s + 9, start_s)
    for share in sorted(looks):
        found = running.next_finish(start_s + share * (ends_s - start_s))
        assert found is not None
        assert found[1] == pytest.approx(ends_s, abs=1e-6)


def test_what_waits_for_the_quota_wakes_with_the_next_period() -> None:
    running = ThrottledSet(0.25)
    running.start(0, 1, 0.2, 9.0, 0.1)
    assert [running.wakes_at(at) for at in (0.11, 0.15, 0.19, 0.21)] == pytest.approx([0.11, 0.2, 0.2, 0.21])


def test_what_is_used_beside_batches_counts_while_none_runs() -> None:
    idle = ThrottledSet(0.5, overhead=0.02)
    assert idle.stat(10.03).used_s == pytest.approx(0.2006)
    assert ThrottledSet(0.01, overhead=0.02).stat(10.0).used_s == pytest.approx(0.1)  # no more than the quota
