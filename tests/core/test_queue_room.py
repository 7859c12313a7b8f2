"""Who gives up a place in a full queue: invariants for any queue, and the cases that clients meet."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.edf_queue import Request
from sponge_core.queue_room import QueueRoom

CLASSES = ("gold", "silver", "default")

deadlines = st.sampled_from([1.0, 2.0, 2.5, 3.0])  # few values, so that ties are common
waiting = st.lists(st.tuples(st.sampled_from(CLASSES), deadlines), max_size=12)
shares = st.sampled_from([{}, {"gold": 0.5}, {"gold": 0.25, "default": 0.5}, {"gold": 0.5, "silver": 0.5}])


def room_of(most: int, share: dict[str, float], rows: list[tuple[str, float]]) -> tuple[QueueRoom, list[Request]]:
    room = QueueRoom(most, share)
    requests = [Request(i, 0.0, deadline, slo_class=name) for i, (name, deadline) in enumerate(rows)]
    for request in requests:
        room.entered(request)
    return room, requests


@dataclass(frozen=True)
class Newcomer:
    slo_class: str
    deadline: float
    rows: int


newcomers = st.builds(Newcomer, st.sampled_from(CLASSES), deadlines, st.integers(1, 5))


@given(st.integers(1, 12), shares, waiting, newcomers)
def test_the_queue_never_overflows_and_no_share_is_taken(
    most: int, share: dict[str, float], rows: list[tuple[str, float]], new: Newcomer
) -> None:
    rows = rows[:most]
    room, requests = room_of(most, share, rows)
    found = room.givers(new.slo_class, new.deadline, new.rows)
    if found is None:
        assert len(rows) + new.rows > most
        return
    assert len(set(found)) == len(found) == max(0, len(rows) + new.rows - most)
    before = Counter(request.slo_class for request in requests)
    lost = Counter(requests[row].slo_class for row in found)
    entitled = before[new.slo_class] + new.rows <= int(share.get(new.slo_class, 0) * most)
    for name, count in lost.items():
        if name != new.slo_class:
            assert before[name] - count >= int(share.get(name, 0) * most)
    for row in found:
        assert requests[row].deadline > new.deadline or (entitled and requests[row].slo_class != new.slo_class)
    kept = [request for request in requests if request.id not in found]
    for row in found:  # of the same class, whoever keeps a place is due earlier, or came earlier
        for other in kept:
            if other.slo_class == requests[row].slo_class:
                assert (other.deadline, other.id) < (requests[row].deadline, row)


@given(st.integers(1, 12), waiting, newcomers)
def test_without_shares_a_newcomer_is_refused_only_by_more_urgent_ones(
    most: int, rows: list[tuple[str, float]], new: Newcomer
) -> None:
    rows = rows[:most]
    room, requests = room_of(most, {}, rows)
    found = room.givers(new.slo_class, new.deadline, new.rows)
    patient = sum(request.deadline > new.deadline for request in requests)
    needed = max(0, len(rows) + new.rows - most)
    assert (found is None) == (needed > 0 and (patient < needed or new.rows > most))
    if found:
        latest = sorted(requests, key=lambda request: (request.deadline, request.id), reverse=True)
        assert found == [request.id for request in latest[:needed]]


@given(st.integers(1, 12), shares, waiting, newcomers)
def test_a_class_within_its_share_always_finds_room(
    most: int, share: dict[str, float], rows: list[tuple[str, float]], new: Newcomer
) -> None:
    rows = rows[:most]
    room, requests = room_of(most, share, rows)
    own = sum(request.slo_class == new.slo_class for request in requests)
    if own + new.rows <= int(share.get(new.slo_class, 0) * most):
        assert room.givers(new.slo_class, new.deadline, new.rows) is not None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(CLASSES), deadlines), max_size=40), st.data())
def test_the_count_follows_every_row(moves: list[tuple[bool, str, float]], data: st.DataObject) -> None:
    room, inside = QueueRoom(10, {}), dict[int, Request]()
    for number, (enters, name, deadline) in enumerate(moves):
        if enters or not inside:
            inside[number] = Request(number, 0.0, deadline, slo_class=name)
            room.entered(inside[number])
        else:
            room.left(inside.pop(data.draw(st.sampled_from(sorted(inside)))))
        assert len(room) == len(inside)


@pytest.mark.parametrize(
    ("new", "givers"),
    [
        (Newcomer("default", 1.5, 1), [3]),
        (Newcomer("default", 1.5, 3), [3, 2, 1]),
        (Newcomer("default", 3.0, 1), None),  # due with the last one: ties are never reordered
        (Newcomer("default", 2.5, 2), None),  # only one is more patient
        (Newcomer("default", 0.5, 5), None),  # more rows than there are places
    ],
)
def test_a_flood_of_patient_requests_does_not_lock_an_urgent_one_out(new: Newcomer, givers: list[int] | None) -> None:
    room, _ = room_of(4, {}, [("default", 1.0), ("default", 2.0), ("default", 2.0), ("default", 3.0)])
    assert room.givers(new.slo_class, new.deadline, new.rows) == givers


def test_a_class_takes_the_places_of_its_share_back_however_urgent_the_others_are() -> None:
    room, _ = room_of(4, {"gold": 0.5}, [("default", 1.0), ("default", 1.1), ("default", 1.2), ("gold", 9.0)])
    assert room.givers("gold", 9.5, 1) == [2]
    assert room.givers("gold", 9.5, 2) is None  # beyond its share it waits in turn
    assert room.givers("default", 0.5, 1) == [2]  # not gold's only row, though that is the most patient one
