"""The cores in force: what was applied, but never more than the quota of the server's own cgroup.

Knows the cgroup as a place to read from, and nothing of who changes it. Polled, through descriptors that stay open: a
poll that finds no change costs some microseconds, so an idle server in a sliver of a core can afford it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sponge_system.cgroup import own_cpu_cgroup, read_cpu_stat, read_quota_milli

__all__ = ["Cores"]

QUOTA_FILES = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
"""Where either version of cgroups keeps the quota of a directory."""


MEMBERSHIP = Path("/proc/self/cgroup")
"""Says which cgroup this process is in; it may be moved after its start."""


class _QuotaFiles:
    """The files that the quota of a cgroup and its ancestors is read from, and `MEMBERSHIP`, kept open."""

    def __init__(self, cgroup: Path | None) -> None:
        directories = () if cgroup is None else (cgroup, *cgroup.parents)
        paths = [MEMBERSHIP, *(directory / name for directory in directories for name in QUOTA_FILES)]
        self._descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths if path.is_file()]
        self._seen: list[bytes] = []

    def changed(self) -> bool:
        """Whether any of them reads differently than at the last call; a file that is gone reads as empty."""
        now = [_read(descriptor) for descriptor in self._descriptors]
        before, self._seen = self._seen, now
        return now != before

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 4096, 0)
    except OSError:
        return b""


class Cores:
    """Merges the applied size with the quota, and tells a listener whenever the result differs."""

    def __init__(self, applied: float, cgroup: Path | None = None) -> None:
        """`cgroup`: where to read the quota; by default the cgroup of this process."""
        self._given = cgroup
        self._cgroup = cgroup or own_cpu_cgroup()
        self._files = _QuotaFiles(self._cgroup)
        self._listener: Callable[[float], None] | None = None
        self._applied = applied
        self._quota_milli: int | None = None
        self._in_force = applied
        self._throttled_before_s = self._read_throttled_s()
        self.poll()

    @property
    def in_force(self) -> float:
        return self._in_force

    @property
    def quota_milli(self) -> int | None:
        """The cgroup's quota at the last poll; None when there is none."""
        return self._quota_milli

    @property
    def throttled_s(self) -> float:
        """Seconds that the cgroup was throttled since this object exists; read when asked for."""
        return self._read_throttled_s() - self._throttled_before_s

    def listen(self, listener: Callable[[float], None]) -> None:
        """`listener` gets the cores in force from now on, now and at every change."""
        self._listener = listener
        listener(self._in_force)

    def apply(self, cores: float) -> None:
        """The operator's size. Takes effect at once, as far as the quota allows."""
        self._applied = cores
        self.poll()

    def poll(self) -> None:
        """Reads the quota again, and settles what is in force."""
        if self._files.changed():
            self._find()
            self._quota_milli = None if self._cgroup is None else read_quota_milli(self._cgroup)
        quota = float("inf") if self._quota_milli is None else self._quota_milli / 1000
        in_force = min(self._applied, quota)
        if in_force != self._in_force:
            self._in_force = in_force
            if self._listener is not None:
                self._listener(in_force)

    def close(self) -> None:
        """Polls no more."""
        self._files.close()

    def _find(self) -> None:
        """Turns to another cgroup when this process was moved there."""
        cgroup = self._given or own_cpu_cgroup()
        if cgroup != self._cgroup:
            self._files.close()
            self._cgroup, self._files = cgroup, _QuotaFiles(cgroup)
            self._files.changed()
            self._throttled_before_s = self._read_throttled_s()

    def _read_throttled_s(self) -> float:
        try:
            return read_cpu_stat(self._cgroup).throttled_s if self._cgroup is not None else 0.0
        except OSError:
            # The root of a hierarchy keeps no statistics, and a cgroup may be moved away under a running process.
            return 0.0
