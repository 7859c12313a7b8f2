"""Packrat: its program against brute force, its estimate of the batch, and its rounds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import DispatchState, Limits
from sponge_core.dispatch.policies.packrat import BatchEstimate, Instance, Packrat, fastest_split
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed.
MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)


@st.composite
def profiles(draw: st.DrawFn) -> list[list[float]]:
    """Up to 5 threads by up to 4 requests, no larger batch faster; whole seconds, so that ties happen."""
    most = draw(st.integers(1, 4))
    row = st.lists(st.integers(1, 9).map(float), min_size=most, max_size=most).map(sorted)
    return draw(st.lists(row, min_size=1, max_size=5))


def every_split(threads: int, batch: int, largest: int, most: int) -> Iterator[list[Instance]]:
    if batch == 0:
        yield []
    elif most > 0:
        for own in range(1, threads + 1):
            for size in range(1, min(batch, largest) + 1):
                for others in every_split(threads - own, batch - size, largest, most - 1):
                    yield [Instance(own, size), *others]


def slowest_s(profile: list[list[float]], split: list[Instance]) -> float:
    return max(profile[each.threads - 1][each.batch - 1] for each in split)


@given(profile=profiles(), batch=st.integers(1, 6), most=st.integers(1, 5))
def test_no_split_ends_sooner(profile: list[list[float]], batch: int, most: int) -> None:
    least = min(
        (slowest_s(profile, split) for split in every_split(len(profile), batch, len(profile[0]), most)), default=None
    )
    if least is None:
        with pytest.raises(ValueError, match="room"):
            fastest_split(profile, batch, most)
        return
    found = list(fastest_split(profile, batch, most))
    assert slowest_s(profile, found) == least
    assert sum(each.batch for each in found) == batch
    assert sum(each.threads for each in found) <= len(profile)
    assert len(found) <= most


def test_several_instances_where_threads_pay_little_and_one_where_they_pay() -> None:
    wasteful = [[10.0, 20.0], [9.0, 18.0]]
    assert fastest_split(wasteful, 2) == (Instance(1, 1), Instance(1, 1))
    assert fastest_split(wasteful, 1) == (Instance(2, 1),)
    perfect = [[10.0, 12.0], [5.0, 6.0]]
    assert fastest_split(perfect, 2) == (Instance(2, 2),)


def test_the_batch_follows_the_queue_and_not_its_noise() -> None:
    estimate = BatchEstimate()
    assert estimate.update(8) == 8
    assert {estimate.update(waiting) for waiting in (6, 10, 7, 12, 5, 9) * 10} == {8}
    assert [estimate.update(40) for _ in range(30)][-1] == 32
    assert [estimate.update(1) for _ in range(30)][-1] == 1


def decide(packrat: Packrat, waiting: int, running: tuple[Running, ...] = ()) -> list[tuple[int, list[int]]]:
    queue = EdfQueue(Request(i, 0.0, 9.0 - i) for i in range(waiting))
    made = packrat.decide(DispatchState(0.0, queue, running, 4.0, [MODEL], Limits(4, 4, 4.0)))
    return [(launch.threads, [request.id for request in launch.requests]) for launch in made.launches]


def test_a_round_is_split_in_order_of_arrival() -> None:
    assert decide(Packrat(), 1) == [(4, [0])]
    assert decide(Packrat(), 4) == [(1, [0]), (1, [1]), (1, [2]), (1, [3])]
    assert decide(Packrat(), 40) == [(1, list(range(first, first + 4))) for first in (0, 4, 8, 12)]


def test_a_round_waits_for_the_one_before() -> None:
    assert decide(Packrat(), 4, (Running(1, 0.5, 9.0),)) == []


def test_a_round_that_is_not_full_keeps_the_configuration() -> None:
    packrat = Packrat()
    assert len(decide(packrat, 4)) == 4
    assert decide(packrat, 1) == [(1, [0])]
