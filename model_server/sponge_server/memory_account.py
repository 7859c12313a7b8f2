"""Account of the memory that requests hold: bodies, messages, decoded tensors and answers, over every protocol.

Each request opens a lease and takes bytes before it spends them. What does not fit is refused, so that any number of
clients together hold no more than the limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

__all__ = ["LARGEST_ACCOUNT_BYTES", "Account", "Lease", "NoRoomError", "account_bytes"]

LARGEST_ACCOUNT_BYTES = 512 << 20
"""The account without a memory limit. More requests than this could not be answered in time anyway."""

LIMIT_PARTS = 8
"""The account is one of so many parts of the memory limit; model and lanes need the others."""

ARRIVING_SHARE = 0.75
"""Share of the account for messages of unknown size that still arrive; the rest stays free for those of known size."""


class NoRoomError(Exception):
    """The account has no room for these bytes."""


def account_bytes(memory_limit: int | None) -> int:
    """Size of the account under a memory limit in bytes; None: there is no limit."""
    if memory_limit is None:
        return LARGEST_ACCOUNT_BYTES
    return min(LARGEST_ACCOUNT_BYTES, memory_limit // LIMIT_PARTS)


class Account:
    """Counts the bytes that all requests of a server hold.

    Attributes:
        limit: the most bytes, >= 1.
        held: bytes that are taken now, including those set aside for arriving messages.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._arriving = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def most_arriving(self) -> int:
        """Most bytes set aside for arriving messages."""
        return max(1, int(self.limit * ARRIVING_SHARE))

    def open(self) -> Lease:
        """A lease that holds nothing yet."""
        return Lease(self)

    def take(self, size: int) -> None:
        """Takes `size` bytes. Raises NoRoomError, and takes nothing, when they do not fit."""
        if self.held + size > self.limit:
            raise NoRoomError
        self.held += size

    def force(self, size: int) -> None:
        """Takes `size` bytes that are already spent, even beyond the limit: then others are refused."""
        self.held += size

    def give_back(self, size: int) -> None:
        """Frees `size` bytes."""
        self.held -= size
        if self._waiting:
            self._wake()

    async def set_aside(self, size: int) -> None:
        """Takes `size` bytes for a message that has yet to arrive, in turn with other messages.

        Raises NoRoomError when requests that are complete leave no room: these take longer than a message.
        """
        place = len(self._waiting)
        while True:
            if self.held - self._arriving + size > self.limit:
                raise NoRoomError
            if self._arriving + size <= self.most_arriving and self.held + size <= self.limit:
                break
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.insert(place, turn)
            place = 0  # whoever was woken too early stays the first
            try:
                await turn
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled():
                    self._wake()
        self._arriving += size
        self.held += size

    def arrived(self, size: int) -> None:
        """Frees `size` bytes that were set aside: the message is here, or will not come."""
        self._arriving -= size
        self.give_back(size)

    def _wake(self) -> None:
        """Lets the message that has waited longest look again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class Lease:
    """What one request holds. Used as a context, it gives everything back at its end."""

    __slots__ = ("_account", "held")

    def __init__(self, account: Account) -> None:
        self._account = account
        self.held = 0

    def take(self, size: int) -> None:
        """Takes `size` more bytes. Raises NoRoomError when they do not fit."""
        self._account.take(size)
        self.held += size

    def force(self, size: int) -> None:
        """Takes `size` more bytes that are already spent."""
        self._account.force(size)
        self.held += size

    def give_back(self, size: int) -> None:
        """Frees `size` of the bytes."""
        self._account.give_back(size)
        self.held -= size

    def close(self) -> None:
        """Frees everything. May be called twice."""
        self.give_back(self.held)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
