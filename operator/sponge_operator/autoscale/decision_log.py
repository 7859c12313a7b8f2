"""The decision log: each decision that changed something, or would have, with its inputs and its outcome.

One JSON object per line.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from sponge_core.errors import SpongeError

__all__ = ["DecisionLog", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision.

    Attributes:
        time: epoch seconds.
        from_milli: the size in force before.
        to_milli: the size decided.
        planner: that recommended the size, projected or paper.
        outcome: of the resize; "applied" if only the batch cap or range changed; "recommended" or "paused" if nothing
            was changed.
        took_s: from the patch until the quota was in force; None without a resize.
        frontier: the server's projection, [cores_milli, misses] pairs.
    """

    time: float
    service: str
    pod: str
    from_milli: int
    to_milli: int
    batch_cap: int
    planner: str
    reason: str
    feasible: bool
    urgent: bool
    outcome: str
    took_s: float | None
    queue_length: int
    arrival_rate_rps: float
    frontier: list[tuple[int, float]]


class DecisionLog:
    """Appends entries to a file, or nowhere; use as a context manager."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> DecisionLog:
        if self._path is not None:
            try:
                self._file = self._path.open("a", encoding="utf-8")
            except OSError as error:
                raise SpongeError(
                    f"--decision-log {self._path}: {error.strerror}; name a file that can be written"
                ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, entry: Entry) -> None:
        """Appends one line; readers see it at once."""
        if self._file is not None:
            self._file.write(json.dumps(asdict(entry), separators=(",", ":")) + "\n")
            self._file.flush()
