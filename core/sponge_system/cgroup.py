"""Reads and sets CPU and memory limits through cgroups, v1 and v2.

The server reads its own cgroup; the profiler and the local demo create theirs. CPU is in integer millicores, as in the
Kubernetes API.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sponge_core.errors import SpongeError

__all__ = [
    "Cgroup",
    "CgroupError",
    "CpuStat",
    "controller_root",
    "own_cgroup",
    "own_cpu_cgroup",
    "read_cpu_stat",
    "read_memory_held",
    "read_memory_left",
    "read_memory_limit",
    "read_memory_used",
    "read_oom_kills",
    "read_quota_milli",
]

_PERIOD_US = 100_000  # the kernel's default, which the kubelet keeps
_MIN_QUOTA_US = 1_000  # the kernel refuses less
_NO_MEMORY_LIMIT = 1 << 60  # version 1 writes a larger number where there is no limit
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_REMOVE_DEADLINE_S = 2.0  # killed processes leave a cgroup a moment after they are reaped


class CgroupError(SpongeError):
    """The kernel's control groups are missing or may not be used."""


@dataclass(frozen=True, slots=True)
class CpuStat:
    """Throttling counters since the cgroup was created; all zero if it never had a quota."""

    periods: int
    throttled_periods: int
    throttled_s: float


def own_cpu_cgroup(proc: Path = Path("/proc")) -> Path | None:
    """The directory of the cgroup that limits this process's CPU; None if no CPU controller is mounted."""
    return own_cgroup("cpu", proc)


def own_cgroup(controller: str, proc: Path = Path("/proc")) -> Path | None:
    """The directory of this process's cgroup under `controller` ("cpu", "memory"); None if that is not mounted.

    Raises OSError if no file can be opened now.

    In a container on cgroup v1 the path in /proc/self/cgroup is the host's and need not exist under the container's
    mount, which then shows the container's own cgroup as its root.

    Args:
        proc: where procfs is mounted.
    """
    lines, mounts = _lines(proc / "self" / "cgroup"), _lines(proc / "self" / "mountinfo")
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version_1 = controller in controllers.split(",")
        if not version_1 and (number != "0" or controllers):
            continue
        found = _mount_point(mounts, controller, version_1)
        # In a hybrid set-up, the v2 hierarchy lacks a controller that v1 has, so it is not the one that limits us.
        if found is None or not (version_1 or _has(controller, found[0])):
            continue
        point, shown = found
        below = path.removeprefix(shown) if shown != "/" else path
        directory = point / below.lstrip("/")
        return directory if ".." not in directory.parts and directory.is_dir() else point
    return None


def read_memory_limit(path: Path) -> int | None:
    """The memory limit in force in `path`, in bytes: the least of its own and its ancestors'; None if unlimited."""
    return _least(path, _own_memory_limit)


def read_memory_used(path: Path) -> int | None:
    """Bytes that the cgroup uses, caches of files included; None if the kernel does not tell."""
    for name in ("memory.current", "memory.usage_in_bytes"):
        try:
            return int((path / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def read_memory_held(path: Path) -> int | None:
    """Bytes that the cgroup uses without caches of files, which the kernel gives up first; None if it does not tell."""
    used = read_memory_used(path)
    try:
        lines = (path / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    fields = dict(line.split(None, 1) for line in lines if line)
    # On version 1, the names without `total_` leave out cgroups below this one.
    files = [fields.get(f"total_{name}", fields.get(name, 0)) for name in ("active_file", "inactive_file")]
    return None if used is None else used - sum(map(int, files))


def read_memory_left(path: Path) -> int | None:
    """Bytes that the cgroup may still take under the limit in force; None if there is none or it is unknown."""
    limit, held = read_memory_limit(path), read_memory_held(path)
    return None if limit is None or held is None else max(0, limit - held)


def read_quota_milli(path: Path) -> int | None:
    """The CPU limit in force in `path`: the least of its own quota and its ancestors'; None if unlimited.

    A missing file (the cgroup is being removed) counts as unlimited. Raises OSError if no file can be opened now.
    """
    return _least(path, _own_quota_milli)


def read_oom_kills(path: Path) -> int:
    """How many processes of the cgroup the kernel has killed for lack of memory; 0 if it does not count them."""
    for name in ("memory.events", "memory.oom_control"):
        try:
            lines = (path / name).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    return 0


def read_cpu_stat(path: Path) -> CpuStat:
    """Throttling of a cgroup; zeros if the kernel does not count it. Raises OSError if `path` is gone."""
    fields = dict(line.split(None, 1) for line in (path / "cpu.stat").read_text(encoding="ascii").splitlines() if line)
    throttled_s = int(fields["throttled_usec"]) / 1e6 if "throttled_usec" in fields else None
    if throttled_s is None:
        throttled_s = int(fields.get("throttled_time", 0)) / 1e9
    return CpuStat(int(fields.get("nr_periods", 0)), int(fields.get("nr_throttled", 0)), throttled_s)


class Cgroup:
    """A cgroup that this program owns, below the root of the CPU controller."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, name: str, cores: float | None = None, root: Path | None = None) -> Cgroup:
        """Creates the cgroup `name`, limited to `cores` > 0 (None: unlimited), or takes over an existing one.

        Args:
            root: parent directory; the CPU controller's mount point by default.

        Raises:
            CgroupError: there is no CPU controller, or no permission to use it.
        """
        parent = root or controller_root("cpu")
        group = cls(parent / name)
        try:
            if (parent / "cgroup.subtree_control").is_file():
                (parent / "cgroup.subtree_control").write_text("+cpu")
            group.path.mkdir(exist_ok=True)
        except OSError as error:
            raise _refused(error, f"create the cgroup {group.path}") from None
        try:
            group.set_quota_milli(None if cores is None else round(cores * 1000))
        except CgroupError:
            group.path.rmdir()
            raise
        return group

    def set_quota_milli(self, milli: int | None) -> None:
        """Sets the limit of the cgroup; None removes it. Raises CgroupError if the kernel refuses."""
        quota = None if milli is None else max(_MIN_QUOTA_US, math.ceil(milli * _PERIOD_US / 1000))
        try:
            if (self.path / "cpu.max").exists():
                (self.path / "cpu.max").write_text(f"{'max' if quota is None else quota} {_PERIOD_US}")
            else:
                (self.path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (self.path / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise CgroupError(f"a limit of {milli}m is above that of the parent of {self.path}: lower it") from None
            raise _refused(error, f"limit the cgroup {self.path}") from None

    def quota_milli(self) -> int | None:
        """The limit in force, ancestors included; None if unlimited."""
        return read_quota_milli(self.path)

    def add_pid(self, pid: int) -> None:
        """Moves a process with all its threads into the cgroup; its later children follow. Raises CgroupError."""
        try:
            (self.path / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise _refused(error, f"move process {pid} into {self.path}") from None

    def put_first(self) -> None:
        """Gives the cgroup ten times the usual weight, so that other programs of the machine do not starve it."""
        for name, weight in (("cpu.shares", "10240"), ("cpu.weight", "1000")):
            file = self.path / name
            if file.exists():
                file.write_text(weight)

    def pids(self) -> list[int]:
        """The processes in the cgroup now."""
        return [int(line) for line in (self.path / "cgroup.procs").read_text(encoding="ascii").split()]

    def cpu_stat(self) -> CpuStat:
        """The throttling of the cgroup so far."""
        return read_cpu_stat(self.path)

    def remove(self) -> None:
        """Removes the cgroup if it exists; moves its processes to the parent first. Raises CgroupError."""
        end = time.monotonic() + _REMOVE_DEADLINE_S
        while True:
            try:
                for pid in self.pids():
                    _move(pid, self.path.parent)
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < end:
                    time.sleep(0.01)
                    continue
                raise _refused(error, f"remove the cgroup {self.path}") from None
            else:
                return


def _move(pid: int, directory: Path) -> None:
    try:
        (directory / "cgroup.procs").write_text(str(pid))
    except ProcessLookupError:
        return  # ended on its own


def controller_root(controller: str) -> Path:
    """The mount point of a controller ("cpu", "memory"). Raises CgroupError if it is not mounted."""
    mounts = _lines(Path("/proc/self/mountinfo"))
    for version_1 in (True, False):
        found = _mount_point(mounts, controller, version_1)
        if found is not None and (version_1 or _has(controller, found[0])):
            return found[0]
    raise CgroupError(f"no cgroup {controller} controller is mounted here: a limit needs a Linux host with one")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        _unless_scarce(error)
        return []


def _unless_scarce(error: OSError) -> None:
    """Raises the error if it says nothing about the file: descriptors or memory are short."""
    if error.errno in _SCARCE:
        raise error


def _mount_point(mountinfo: list[str], controller: str, version_1: bool) -> tuple[Path, str] | None:
    """The mount point of the controller (v1) or of the unified hierarchy (v2), and the directory that it shows."""
    for line in mountinfo:
        head, _, tail = line.partition(" - ")
        fields, after = head.split(), tail.split()
        if len(fields) < 5 or len(after) < 3:
            continue
        kind, options = after[0], after[2].split(",")
        if (version_1 and kind == "cgroup" and controller in options) or (not version_1 and kind == "cgroup2"):
            return Path(fields[4]), fields[3]
    return None


def _has(controller: str, root: Path) -> bool:
    try:
        return controller in (root / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return False


def _is_cgroup(directory: Path) -> bool:
    return (directory / "cgroup.procs").exists()


def _least(path: Path, own: Callable[[Path], int | None]) -> int | None:
    """The least of the limits that a cgroup and its ancestors have of their own; None if none has one."""
    limits = []
    directory = path
    while _is_cgroup(directory):
        limit = own(directory)
        if limit is not None:
            limits.append(limit)
        directory = directory.parent
    return min(limits, default=None)


def _own_quota_milli(directory: Path) -> int | None:
    try:
        if (directory / "cpu.max").exists():
            quota, period = (directory / "cpu.max").read_text(encoding="ascii").split()
        elif (directory / "cpu.cfs_quota_us").exists():
            quota = (directory / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (directory / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        else:
            return None  # the root of v2 has no quota
    except OSError as error:
        _unless_scarce(error)
        return None
    if quota == "max" or int(quota) < 0:
        return None
    return max(1, round(int(quota) * 1000 / int(period)))


def _own_memory_limit(directory: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (directory / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return None if text == "max" or int(text) >= _NO_MEMORY_LIMIT else int(text)
    return None  # the root of v2 has no limit


def _refused(error: OSError, action: str) -> CgroupError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CgroupError(f"may not {action}: this needs root and a writable /sys/fs/cgroup")
    return CgroupError(f"cannot {action}: {error.strerror}")
