"""A record of each decision that changed something, or would have: inputs, decision, what became of it.

One JSON object a line, for the demo, the benchmarks and whoever asks why. Knows nothing of who reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from sponge_core.errors import SpongeError

__all__ = ["Entry", "Journal"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision.

    Attributes:
        time: epoch seconds at which it was made.
        from_milli: size in force before.
        to_milli: size decided.
        outcome: a resize's outcome; "applied" for a batch cap alone; "recommended" or "paused" where nothing was
            changed.
        took_s: from the patch to the quota in force; None where there was none.
        frontier: the server's projection, [cores_milli, misses] pairs.
    """

    time: float
    service: str
    pod: str
    from_milli: int
    to_milli: int
    batch_cap: int
    reason: str
    feasible: bool
    urgent: bool
    outcome: str
    took_s: float | None
    queue_length: int
    arrival_rate_rps: float
    frontier: list[tuple[int, float]]


class Journal:
    """Appends entries to a file, or nowhere; use as a context manager."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
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
