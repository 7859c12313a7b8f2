"""Room in a full queue: who waits, and who gives up a place for a newcomer.

Places go by deadline: an urgent newcomer takes the place of the most patient request. A class of requests may have a
share of the places to itself. While there is room, anybody may use all of it; when there is none, a class below its
share takes a place from those above theirs, and no class is pushed below its share by another.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping

from sponge_core.edf_queue import Request

__all__ = ["QueueRoom"]

_NOBODY: list[tuple[float, int]] = []


class QueueRoom:
    """The places of a queue, by class. Tell it of every row that enters or leaves the queue."""

    __slots__ = ("_count", "_most", "_places", "_waiting")

    def __init__(self, most: int, shares: Mapping[str, float]) -> None:
        """No row waits.

        Args:
            most: number of places, in rows, >= 1.
            shares: by class, the share of the places that it has to itself; together at most 1.
        """
        self._most = most
        self._places = {slo_class: int(share * most) for slo_class, share in shares.items()}
        self._waiting: dict[str, list[tuple[float, int]]] = {}
        self._count = 0

    @property
    def most(self) -> int:
        return self._most

    def __len__(self) -> int:
        """Number of rows that wait."""
        return self._count

    def entered(self, request: Request) -> None:
        """A row entered the queue."""
        line = self._waiting.get(request.slo_class)
        if line is None:
            line = self._waiting[request.slo_class] = []
        insort(line, (request.deadline, request.id))
        self._count += 1

    def left(self, request: Request) -> None:
        """A row that had entered left the queue."""
        line = self._waiting[request.slo_class]
        del line[bisect_left(line, (request.deadline, request.id))]
        self._count -= 1

    def givers(self, slo_class: str, deadline: float, rows: int) -> list[int] | None:
        """Ids of the rows that give up their places for a newcomer, the most patient first.

        Args:
            slo_class, deadline: of the newcomer.
            rows: places that it needs, >= 1.

        Returns:
            Empty while there is room. None: the newcomer is refused, as the rows that wait are more urgent, or are
            within their class's share. A row due at the same time as the newcomer keeps its place.
        """
        needed = self._count + rows - self._most
        if needed <= 0:
            return []
        if rows > self._most:
            return None
        entitled = len(self._waiting.get(slo_class, _NOBODY)) + rows <= self._places.get(slo_class, 0)
        left = {name: len(line) for name, line in self._waiting.items()}
        found: list[int] = []
        while len(found) < needed:
            best: tuple[float, int] | None = None
            giver = ""
            for name, count in left.items():
                above = count > self._places.get(name, 0)
                if count == 0 or not (above or name == slo_class):
                    continue
                last = self._waiting[name][count - 1]
                # A class below its share need not be the more urgent one to take a place from another.
                may = last[0] > deadline or (entitled and name != slo_class)
                if may and (best is None or last > best):
                    best, giver = last, name
            if best is None:
                return None
            left[giver] -= 1
            found.append(best[1])
        return found
