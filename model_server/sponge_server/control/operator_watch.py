"""Whether the server's operator is heard: it polls the state, or sends messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OperatorWatch"]


class OperatorWatch:
    """Knows since when the operator has been silent. None is expected before the first, nor after a release.

    Attributes:
        fallback_after_s: a longer silence means that the operator is gone; None: it is never taken for gone.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives monotonic seconds."""
        self.fallback_after_s: float | None = None
        self._clock = clock
        self._heard_at: float | None = None
        self._polls = 0

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Context of one long poll: while it waits, its sender is there."""
        self.heard()
        self._polls += 1
        try:
            yield
        finally:
            self._polls -= 1
            if self._heard_at is not None:  # else it was released meanwhile
                self.heard()

    def heard(self) -> None:
        """The operator has sent something."""
        self._heard_at = self._clock()

    def released(self) -> None:
        """The operator has let go of the server, so none is expected."""
        self._heard_at = None

    @property
    def silent_s(self) -> float:
        """Seconds since the operator was last heard; 0 while it polls, and where none is expected."""
        return 0.0 if self._heard_at is None or self._polls else self._clock() - self._heard_at

    @property
    def gone_s(self) -> float:
        """Seconds of a silence that is longer than `fallback_after_s`; 0 without one."""
        silent_s, after_s = self.silent_s, self.fallback_after_s
        return silent_s if after_s is not None and silent_s >= after_s else 0.0
