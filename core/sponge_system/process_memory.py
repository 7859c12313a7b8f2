"""Models the memory of a server by lanes and batch size, and reads the memory of a process. All sizes are in bytes.

Only memory that the kernel cannot drop counts: pages of a program's files can be read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sponge_system.memory_growth import RESERVE_BYTES

__all__ = ["MemoryModel", "anonymous_bytes", "private_bytes"]


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """base + lanes * (lane + item * batch): server with weights, each lane by itself, each row of its largest batch."""

    base_bytes: int
    lane_bytes: int
    item_bytes: int

    @classmethod
    def of(cls, base_bytes: int, lane: Sequence[tuple[int, int]], shared_item_bytes: int) -> MemoryModel:
        """Fits the model to measurements so that no point needs more than the model says.

        Args:
            base_bytes: the memory of the server with the weights.
            lane: (batch, bytes of the lane), at least one.
            shared_item_bytes: the memory of a row that server and lane share, which no process owns.
        """
        batches, sizes = (np.array(column, dtype=float) for column in zip(*lane, strict=True))
        several = len(set(batches)) > 1
        slope = max(0.0, float(np.polyfit(batches, sizes, 1)[0])) if several else 0.0
        rest = max(0.0, float((sizes - slope * batches).max()))
        return cls(base_bytes, round(rest), round(slope) + shared_item_bytes)

    def need(self, lanes: int, batch: int) -> int:
        """Bytes that `lanes` lanes with batches of up to `batch` need, server included."""
        return self.base_bytes + lanes * (self.lane_bytes + self.item_bytes * batch)

    def room(self, limit_bytes: int) -> int:
        """Bytes that all lanes together may use under a limit."""
        return limit_bytes - RESERVE_BYTES - self.base_bytes

    def fit(self, limit_bytes: int, lanes: int, batch: int) -> tuple[int, int] | None:
        """The largest (lanes, batch) that stay under a limit; None if not even one lane with one row fits.

        Gives up rows before lanes, because a lane keeps a core busy and larger batches do not.
        """
        for count in range(lanes, 0, -1):
            room = self.room(limit_bytes) / count - self.lane_bytes
            rows = batch if self.item_bytes == 0 and room >= 0 else int(room // max(1, self.item_bytes))
            if rows >= 1:
                return count, min(batch, rows)
        return None


def private_bytes(pid: int) -> int | None:
    """Bytes of written pages that the process shares with no other; None if the kernel does not tell."""
    return _rollup(pid, "Private_Dirty")


def anonymous_bytes(pid: int) -> int | None:
    """Bytes of the process that no file backs, shared with its forks or not; None if the kernel does not tell."""
    return _rollup(pid, "Anonymous")


def _rollup(pid: int, field: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
