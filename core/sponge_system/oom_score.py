"""Which process the kernel ends first when memory runs out: the one whose loss costs least.

A lane costs its batch, the fork server the time to load the models, the server all that it has accepted. What is still
being loaded beside a version that serves costs nothing, so it goes before all of these. A score is in thousandths of
the memory limit, which the kernel adds to what a process uses. Each is relative to the server's own, which a container
runtime has set. This module must not import numpy, because the server's own process imports it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["FORK_SERVER", "LANE", "LOADING", "raise_oom_score", "set_oom_score"]

FORK_SERVER = 200
LANE = 500  # more than server and fork server can be larger by
LOADING = 500
"""On top of the others, until what is loaded takes over."""

_LARGEST = 1000


def raise_oom_score(by: int) -> None:
    """Raises the score of this process, which its forks inherit."""
    _set("self", by)


def set_oom_score(pid: int, above: int) -> None:
    """Sets the score of another process of the same user, relative to this one. If it has ended, nothing happens."""
    _set(str(pid), above)


def _set(pid: str, above: int) -> None:
    with contextlib.suppress(OSError):  # a wrong choice of victim is no reason to fail
        own = int(Path("/proc/self/oom_score_adj").read_bytes())
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(_LARGEST, own + above)), encoding="ascii")
