"""Pauses between attempts at something that must succeed in the end, such as starting a lane."""

from __future__ import annotations

__all__ = ["backoff_s"]

_PAUSES_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # the last one repeats: an error that passes costs no more than that


def backoff_s(attempt: int) -> float:
    """Seconds to wait before attempt number `attempt` in a row, from 0."""
    return _PAUSES_S[min(max(attempt, 0), len(_PAUSES_S) - 1)]
