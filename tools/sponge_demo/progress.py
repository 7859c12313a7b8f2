"""How far a demo is and how long it will still take, from the phases that it goes through; pure.

A phase takes about as long as it was expected to; one that is overdue is expected to take a little more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Phase", "Phases", "duration_text"]

OVERDUE_SHARE = 0.1
"""Of the time that an overdue phase has taken: how much longer it is expected to take."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a demo, and the seconds that it is expected to take."""

    name: str
    expected_s: float


class Phases:
    """The phases in order, and where the demo stands in them. Times are seconds on the caller's clock.

    Args:
        phases: at least one.
        now: the first phase begins.
    """

    def __init__(self, phases: Sequence[Phase], now: float) -> None:
        self._phases = list(phases)
        self._index = 0
        self._began = now
        self._spent_s = 0.0

    @property
    def current(self) -> Phase:
        """The phase that goes on."""
        return self._phases[self._index]

    def enter(self, name: str, now: float) -> None:
        """The phase of that name begins; planned phases before it are skipped.

        A phase that was not planned takes the place of the next one, but never that of the last: it goes before that.
        """
        self._spent_s += now - self._began
        self._began = now
        coming = self._phases[self._index + 1 :]
        self._index += 1
        names = [phase.name for phase in coming]
        if name in names:
            self._index += names.index(name)
        elif len(coming) > 1:
            self._phases[self._index] = Phase(name, coming[0].expected_s)
        else:
            self._phases.insert(self._index, Phase(name, self._phases[self._index - 1].expected_s))

    def left_s(self, now: float) -> float:
        """Seconds until the end of the last phase."""
        elapsed_s = now - self._began
        here_s = max(self.current.expected_s - elapsed_s, OVERDUE_SHARE * elapsed_s)
        return here_s + sum(phase.expected_s for phase in self._phases[self._index + 1 :])

    def share(self, now: float) -> float:
        """The part of the whole that is done, 0 to 1."""
        done_s = self._spent_s + now - self._began
        return done_s / (done_s + self.left_s(now)) if done_s > 0 else 0.0


def duration_text(seconds: float) -> str:
    """A time in words: about 3 min 20 s, about 40 s."""
    tens = round(max(0.0, seconds) / 10) * 10
    if tens < 10:
        return "a few seconds"
    minutes, rest = divmod(tens, 60)
    if not minutes:
        return f"about {rest} s"
    return f"about {minutes} min" + (f" {rest} s" if rest and minutes < 10 else "")
