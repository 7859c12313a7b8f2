"""The EDF queue against a sorted list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.edf_queue import EdfQueue, Request

# Few distinct deadlines, so that ties happen.
deadlines = st.lists(st.integers(0, 5).map(float), max_size=40)


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 2)), max_size=40))
def test_models_share_one_order_and_each_has_its_own(values: list[tuple[float, int]]) -> None:
    requests = [Request(i, 0.0, deadline, model=model) for i, (deadline, model) in enumerate(values)]
    queue = EdfQueue(requests)
    in_order = sorted(requests, key=lambda r: (r.deadline, r.id))
    assert list(queue) == in_order
    for model, line in enumerate(queue.deadlines):
        own = [r for r in in_order if r.model == model]
        assert list(line) == [r.deadline for r in own]
        assert queue.waiting(model, 1, 2) == own[1:3]


@given(deadlines)
def test_earliest_deadline_first_and_ties_in_order_of_arrival(values: list[float]) -> None:
    requests = [Request(i, 0.0, deadline) for i, deadline in enumerate(values)]
    queue = EdfQueue(requests)
    assert list(queue) == sorted(requests, key=lambda r: (r.deadline, r.id))
    assert queue.head() == (min(requests, key=lambda r: (r.deadline, r.id)) if requests else None)


@given(deadlines, st.data())
def test_discarding_leaves_the_others_in_order(values: list[float], data: st.DataObject) -> None:
    requests = [Request(i, 0.0, deadline) for i, deadline in enumerate(values)]
    queue = EdfQueue(requests)
    gone = data.draw(st.sets(st.integers(0, len(values) + 3)))
    for request_id in gone:
        found = queue.discard(request_id)
        assert (found is not None) == (request_id < len(values))
        assert request_id not in queue
    left = [r for r in requests if r.id not in gone]
    assert list(queue) == sorted(left, key=lambda r: (r.deadline, r.id))
    assert len(queue) == len(left)


def test_one_id_cannot_wait_twice() -> None:
    queue = EdfQueue([Request(1, 0.0, 1.0)])
    with pytest.raises(ValueError, match="request 1 is already queued"):
        queue.push(Request(1, 0.0, 2.0))
