"""The waiting requests, earliest deadline first.

Ties keep the order of arrival: two requests with the same deadline are never reordered.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["RATE_WINDOW_S", "EdfQueue", "Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request. All times are seconds on the caller's clock.

    Attributes:
        id: grows with arrival, and breaks ties between equal deadlines.
        arrival: when its body was complete, so that it could be queued.
        deadline: when its answer is due.
        sent: when the client sent it.
        slo_class: the name of its class in an experiment.
        model: index of its model among those of the server.
        size: its work in the model's unit (tokens, pixels), > 0; counts only for a model with a `SizeCurve`.
        floor: the least accuracy that its answer may have; infinite: only the model itself may answer.
    """

    id: int
    arrival: float
    deadline: float
    sent: float = 0.0
    slo_class: str = ""
    model: int = 0
    size: float = 1.0
    floor: float = math.inf


RATE_WINDOW_S = 1.0
"""Time constant of the arrival rate: as long as a common SLO, so that a short burst does not count as overload."""


def _order(request: Request) -> tuple[float, int]:
    return request.deadline, request.id


@dataclass(slots=True)
class _ModelQueue:
    """The waiting requests of one model, as parallel lists."""

    keys: list[tuple[float, int]] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    slos: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    recent: float = 0.0  # number of arrivals, each discounted by its age
    newest: float = 0.0  # time of the last arrival

    def rate(self, now: float) -> float:
        return self.recent * math.exp(-max(0.0, now - self.newest) / RATE_WINDOW_S) / RATE_WINDOW_S


class EdfQueue:
    """A sorted list for each model: a change costs an O(log n) search and a memmove, reading in order costs nothing.

    The dispatch rule and the projection read the queue in order at every decision, for which a heap would have to be
    copied and popped. With 1,000 waiting requests an insert takes under a microsecond longer than into a heap.
    """

    __slots__ = ("_by_id", "_deadlines", "_queues", "_sizes", "_slos")

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._by_id: dict[int, Request] = {}
        self._queues: list[_ModelQueue] = []
        self._deadlines: list[list[float]] = []
        self._slos: list[list[float]] = []
        self._sizes: list[list[float]] = []
        for request in requests:
            self.push(request)

    def push(self, request: Request) -> None:
        """Adds a request. Raises ValueError if its id is already queued."""
        if request.id in self._by_id:
            raise ValueError(f"request {request.id} is already queued")
        self._by_id[request.id] = request
        while request.model >= len(self._queues):
            self._queues.append(_ModelQueue())
            self._deadlines.append(self._queues[-1].deadlines)
            self._slos.append(self._queues[-1].slos)
            self._sizes.append(self._queues[-1].sizes)
        queue = self._queues[request.model]
        index = bisect_left(queue.keys, _order(request))
        queue.keys.insert(index, _order(request))
        queue.deadlines.insert(index, request.deadline)
        queue.slos.insert(index, request.deadline - request.arrival)
        queue.sizes.insert(index, request.size)
        queue.requests.insert(index, request)
        queue.recent = queue.rate(request.arrival) * RATE_WINDOW_S + 1.0
        queue.newest = max(queue.newest, request.arrival)

    def discard(self, request_id: int) -> Request | None:
        """Removes and returns a request; None if it is not queued (launched, shed or unknown)."""
        request = self._by_id.pop(request_id, None)
        if request is not None:
            queue = self._queues[request.model]
            index = bisect_left(queue.keys, _order(request))
            del queue.keys[index], queue.deadlines[index], queue.slos[index], queue.sizes[index]
            del queue.requests[index]
        return request

    def head(self) -> Request | None:
        """The request with the earliest deadline; None if the queue is empty."""
        return min((queue.requests[0] for queue in self._queues if queue.keys), key=_order, default=None)

    @property
    def deadlines(self) -> Sequence[Sequence[float]]:
        """The deadlines by model, ascending. A live view, valid until the queue changes."""
        return self._deadlines

    @property
    def slos(self) -> Sequence[Sequence[float]]:
        """The seconds that each request had left on arrival, in the order of `deadlines`. A live view, too."""
        return self._slos

    @property
    def sizes(self) -> Sequence[Sequence[float]]:
        """The size of each request, in the order of `deadlines`. A live view, too."""
        return self._sizes

    def rates(self, now: float) -> list[float]:
        """The recent arrival rate of each model, in requests per second."""
        return [queue.rate(now) for queue in self._queues]

    def waiting(self, model: int, first: int, count: int) -> list[Request]:
        """`count` waiting requests of `model`, from index `first` of its deadlines."""
        return self._queues[model].requests[first : first + count]

    def by_arrival(self) -> Iterator[Request]:
        """The requests of all models in the order they were added; the queue must not change meanwhile."""
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._by_id

    def __iter__(self) -> Iterator[Request]:
        """The requests of all models, earliest deadline first; the queue must not change meanwhile."""
        if len(self._queues) == 1:
            return iter(self._queues[0].requests)
        return heapq.merge(*(queue.requests for queue in self._queues), key=_order)
