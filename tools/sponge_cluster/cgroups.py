"""Creates and removes the cluster's cgroups, and lists their processes: version 1, version 2 or the hybrid of both.

The kubelet puts its pods below /NAME. The daemons go to /NAME/daemons, which limits nothing. In one hierarchy (pids, or
the unified one) that group identifies every process of the cluster without a state file, container shims included.

Under contention the CPU is shared as on a node of its own: the pods weigh as much as all cores, and all daemons
as much as one. Without these weights, all pods together would weigh as much as a single thread outside the cluster.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import ProcessId, identify

__all__ = ["ROOT", "create", "hierarchies", "join_daemons", "members", "remove"]

ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")

DAEMON_CORES = 1
"""All daemons together weigh as much as one core, as the slice of a node's system services does."""

_WEIGHT_OF_A_CORE = {"cpu.shares": 1024, "cpu.weight": 100}
_MAX_WEIGHT = {"cpu.shares": 262_144, "cpu.weight": 10_000}


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The top folder of every mounted hierarchy: a single one under version 2, one per controller under version 1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def _tracking(root: Path) -> Path:
    return root if (root / "cgroup.controllers").exists() else root / "pids"


def _daemon_groups(name: str, root: Path) -> list[Path]:
    """The daemons' group in each hierarchy that has one: where processes are identified, and where CPU is shared."""
    tops = [_tracking(root), *(top for top in hierarchies(root) if (top / "cpu.shares").exists())]
    return [top / name / "daemons" for top in dict.fromkeys(tops)]


def _set_weight(group: Path, cores: int) -> None:
    """Gives the group the weight that the kubelet gives to the pods of `cores` cores."""
    for knob, weight in _WEIGHT_OF_A_CORE.items():
        if (group / knob).exists():
            (group / knob).write_text(str(min(_MAX_WEIGHT[knob], weight * cores)))


def create(name: str, root: Path = ROOT) -> None:
    """Creates /NAME in every hierarchy, and the daemons' groups.

    Raises:
        ClusterError: a controller that the kubelet needs is missing.
    """
    tops = hierarchies(root)
    if tops == [root]:
        offered = (root / "cgroup.controllers").read_text().split()
        if missing := [c for c in _NEEDED if c not in offered]:
            raise ClusterError(f"the kernel offers no cgroup controller {', '.join(missing)} at {root}")
        for controller in offered:
            # Some cannot be delegated on some kernels; the needed ones are checked by the kubelet anyway.
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text(f"+{controller}")
    elif missing := [c for c in _NEEDED if not (root / c).exists()]:
        raise ClusterError(f"cgroup controllers {', '.join(missing)} are not mounted below {root}")
    for top in tops:
        group = top / name
        group.mkdir(exist_ok=True)
        if top != root:
            # Under version 1 a new cpuset group is empty, and no process can join it.
            for knob in ("cpuset.cpus", "cpuset.mems"):
                if (top / knob).exists():
                    (group / knob).write_text((top / knob).read_text())
        _set_weight(group, (os.cpu_count() or 1) + DAEMON_CORES)
    for daemons in _daemon_groups(name, root):
        daemons.mkdir(exist_ok=True)
        _set_weight(daemons, DAEMON_CORES)


def join_daemons(name: str, process: ProcessId, root: Path = ROOT) -> None:
    """Moves a process into the daemons' groups; its future children join them too."""
    for group in _daemon_groups(name, root):
        with contextlib.suppress(ProcessLookupError):
            (group / "cgroup.procs").write_text(str(process.pid))


def members(name: str, below: str = "", root: Path = ROOT) -> list[ProcessId]:
    """Every live process in /NAME/BELOW and the groups under it."""
    top = _tracking(root) / name / below
    found: list[ProcessId] = []
    for group in _tree(top):
        with contextlib.suppress(OSError):  # the group may disappear meanwhile
            pids = (group / "cgroup.procs").read_text().split()
            found += [process for pid in pids if (process := identify(int(pid)))]
    return found


def _tree(top: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(top)]


def remove(name: str, root: Path = ROOT, timeout_s: float = 5.0) -> None:
    """Removes /NAME with everything under it from every hierarchy; a group stays busy until its last process is reaped.

    Raises:
        ClusterError: a group is still in use after `timeout_s` seconds.
    """
    until = time.monotonic() + timeout_s
    for top in hierarchies(root):
        group = top / name
        while group.exists():
            # Deepest first. The kernel removes the files of a group with its folder.
            for path in reversed(_tree(group)):
                with contextlib.suppress(OSError):
                    path.rmdir()
            if group.exists():
                if time.monotonic() > until:
                    raise ClusterError(f"the cgroup {group} is still in use; see its cgroup.procs")
                time.sleep(0.05)
