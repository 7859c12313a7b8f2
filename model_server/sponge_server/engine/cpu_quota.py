"""The cores in force: the quota of the server's own cgroup, or a smaller size that the operator has applied.

The quota is polled through file descriptors that stay open. A poll that finds no change costs a few microseconds, which
an idle server on a small fraction of a core can afford.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from sponge_system.cgroup import own_cpu_cgroup, read_cpu_stat, read_quota_milli
from sponge_system.logs import event

__all__ = ["CpuQuota"]

log = logging.getLogger(__name__)

QUOTA_FILES = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
"""Files with the quota of a directory, in both versions of cgroups."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Names the cgroup of this process, which may be moved after its start."""


class _QuotaFiles:
    """Open files: the quotas of a cgroup and its ancestors, and `MEMBERSHIP`."""

    def __init__(self, cgroup: Path | None) -> None:
        directories = () if cgroup is None else (cgroup, *cgroup.parents)
        paths = [MEMBERSHIP, *(directory / name for directory in directories for name in QUOTA_FILES)]
        self._descriptors: list[int] = []
        self._seen: list[bytes] | None = None
        try:
            for path in paths:
                if path.is_file():
                    self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def changed(self) -> bool:
        """Whether any content differs from the last call; a file that is gone counts as empty."""
        now = [_read(descriptor) for descriptor in self._descriptors]
        before, self._seen = self._seen, now
        return now != before

    def forget(self) -> None:
        """The next call of `changed` returns True."""
        self._seen = None

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _read(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 4096, 0)
    except OSError:
        return b""


class CpuQuota:
    """Merges the applied size with the quota, and tells listeners whenever the result changes.

    Attributes:
        applied: the applied size in cores; None while nobody applies one, so that the quota alone rules.
    """

    def __init__(self, assumed: float, cgroup: Path | None = None) -> None:
        """A quota to which nobody has applied a size.

        Args:
            assumed: size in cores where there is no quota.
            cgroup: where to read the quota; by default the cgroup of this process.
        """
        self._given = cgroup
        self._cgroup = cgroup or own_cpu_cgroup()
        self._files = _QuotaFiles(self._cgroup)
        self._listeners: list[Callable[[float], None]] = []
        self._assumed = assumed
        self.applied: float | None = None
        self._quota_milli: int | None = None
        self._in_force = assumed
        self._unreadable = False
        self._throttled_before_s = self._read_throttled_s()
        self.poll()

    @property
    def in_force(self) -> float:
        """The cores in force."""
        return self._in_force

    @property
    def quota_milli(self) -> int | None:
        """The cgroup's quota at the last poll; None when there is none."""
        return self._quota_milli

    @property
    def throttled_s(self) -> float:
        """Seconds that the cgroup was throttled since this object was created; read on every access."""
        return max(0.0, self._read_throttled_s() - self._throttled_before_s)

    def add_listener(self, listener: Callable[[float], None]) -> None:
        """Calls `listener` with the cores in force, now and after every change."""
        self._listeners.append(listener)
        listener(self._in_force)

    def apply(self, cores: float) -> None:
        """Applies a size in cores. It takes effect at once, as far as the quota allows."""
        self.applied = cores
        self.poll()

    def release(self) -> None:
        """Nobody applies a size any more: the quota rules."""
        self.applied = None
        self.poll()

    def poll(self) -> None:
        """Reads the quota and updates the cores in force."""
        if self._files.changed():
            try:
                self._find()
                self._quota_milli = None if self._cgroup is None else read_quota_milli(self._cgroup)
                self._unreadable = False
            except (OSError, ArithmeticError, ValueError) as error:
                # What was read last stays in force until a poll can read it again.
                self._files.forget()
                if not self._unreadable:
                    event(log, "quota.unreadable", logging.WARNING, error=error)
                self._unreadable = True
        quota = None if self._quota_milli is None else self._quota_milli / 1000
        in_force = min((size for size in (self.applied, quota) if size is not None), default=self._assumed)
        if in_force != self._in_force:
            self._in_force = in_force
            for listener in self._listeners:
                listener(in_force)

    def close(self) -> None:
        """Closes the files."""
        self._files.close()

    def _find(self) -> None:
        """Switches to another cgroup if this process was moved there."""
        cgroup = self._given or own_cpu_cgroup()
        if cgroup != self._cgroup:
            files = _QuotaFiles(cgroup)
            files.changed()
            self._files.close()
            self._cgroup, self._files = cgroup, files
            self._throttled_before_s = self._read_throttled_s()

    def _read_throttled_s(self) -> float:
        try:
            return read_cpu_stat(self._cgroup).throttled_s if self._cgroup is not None else 0.0
        except OSError:
            # The root of a hierarchy keeps no statistics, and a cgroup may be moved away under a running process.
            return 0.0
