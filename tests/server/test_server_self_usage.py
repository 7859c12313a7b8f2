"""CPU use of the server itself: the average, and its effect on batches that share the quota."""

from __future__ import annotations

import pytest

from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_server.engine.scheduler import Scheduler
from sponge_server.engine.self_usage import SelfUsage

MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)  # 110 ms alone on one thread


def test_a_steady_use_is_found_and_reported_only_when_it_changes() -> None:
    usage = SelfUsage(0.0, 0.0)
    changes = [usage.observe(0.1 * beat, 0.05 * 0.1 * beat) for beat in range(1, 201)]
    assert usage.cores == pytest.approx(0.05, abs=0.006)
    assert any(changes[:20])
    assert not any(changes[100:])


def test_an_idle_process_costs_nothing() -> None:
    usage = SelfUsage(0.0, 3.0)
    assert not usage.observe(1.0, 3.0)
    assert usage.cores == 0.0
    assert not usage.observe(1.0, 4.0), "no time has passed: nothing can be said"


def test_batches_get_what_is_left_of_the_quota() -> None:
    books = Scheduler([MODEL], 1.0, 8, 4.0, 0.0)
    books.set_self_usage(0.2, 0.0)
    assert (books.cores, books.self_usage, books.budget) == (1.0, 0.2, 1)
    books.add(
        Request(1, 0.0, 0.13)
    )  # 110 ms at 0.8 of full speed, and up to 20 ms of throttling: too late at this size
    assert not books.turn(0.0, 2).batches
    books.set_cores(2.0, 0.0)
    assert [batch.threads for batch in books.turn(0.0, 2).batches] == [1]


def test_a_small_self_usage_above_a_whole_core_adds_no_thread() -> None:
    books = Scheduler([MODEL], 1.125, 8, 4.0, 0.0)
    assert books.budget == 2
    books.set_self_usage(0.13, 0.0)
    assert books.budget == 1
