"""The waiting requests, earliest deadline first.

Knows nothing of batches, lanes or sockets. Ties keep the order of arrival, so two requests with one deadline are never
reordered.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["EdfQueue", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request on the caller's clock.

    `sent` is when the client sent it, `arrival` when its body was complete and it could be queued, `deadline` when the
    answer is due; all in seconds. `id` grows with arrival and breaks ties.
    """

    id: int
    arrival: float
    deadline: float
    sent: float = 0.0
    slo_class: str = ""


class EdfQueue:
    """A sorted list: O(log n) search plus a memmove per change, in-order iteration for free.

    The dispatch rule and the projection walk the queue in order at every decision; a heap would have to be copied and
    popped for that. At 1,000 waiting requests an insert costs under a microsecond more than a heap's.
    """

    __slots__ = ("_by_id", "_keys")

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._by_id: dict[int, Request] = {}
        self._keys: list[tuple[float, int]] = []
        for request in requests:
            self.push(request)

    def push(self, request: Request) -> None:
        """Adds a request. Raises ValueError when its id is queued already."""
        if request.id in self._by_id:
            raise ValueError(f"request {request.id} is queued already")
        self._by_id[request.id] = request
        insort(self._keys, (request.deadline, request.id))

    def discard(self, request_id: int) -> Request | None:
        """Removes and returns the request, or None when it is not queued (launched, shed or unknown)."""
        request = self._by_id.pop(request_id, None)
        if request is not None:
            index = bisect_left(self._keys, (request.deadline, request.id))
            del self._keys[index]
        return request

    def head(self) -> Request | None:
        """The request with the earliest deadline, or None when the queue is empty."""
        return self._by_id[self._keys[0][1]] if self._keys else None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._by_id

    def __iter__(self) -> Iterator[Request]:
        """Earliest deadline first; the queue must not change meanwhile."""
        by_id = self._by_id
        return (by_id[key[1]] for key in self._keys)
