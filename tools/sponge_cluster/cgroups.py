"""Creates and removes the cluster's cgroups, and lists their processes: version 1, version 2 or the hybrid of both.

Each kubelet puts its pods below /NAME/NODE. Daemons go to /NAME/daemons, which limits nothing; those of a node to a
group of its own there. In one hierarchy (pids, or the unified one) these groups identify every process of the cluster
without a state file, container shims included.

Under contention the CPU is shared as on a machine of its own: each node's pods weigh as much as the node's cores, and
all daemons as much as one. Without these weights, all pods together would weigh as much as a single thread outside.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import ProcessId, identify, stop

__all__ = [
    "DAEMONS",
    "ROOT",
    "create",
    "end_members",
    "hierarchies",
    "join_daemons",
    "members",
    "node_groups",
    "remove",
]

ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")

DAEMONS = "daemons"
"""The group of all daemons, with a group for each node and one for the control plane."""

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


def _set_weight(group: Path, cores: float) -> None:
    """Gives the group the weight that the kubelet gives to the pods of `cores` cores."""
    for knob, weight in _WEIGHT_OF_A_CORE.items():
        if (group / knob).exists():
            (group / knob).write_text(str(min(_MAX_WEIGHT[knob], round(weight * cores))))


def create(name: str, nodes: Mapping[str, float], root: Path = ROOT) -> None:
    """Creates /NAME in every hierarchy, and in it the groups of the nodes and of the daemons.

    Args:
        nodes: the names of the nodes' groups, with what each one offers to pods in cores.

    Raises:
        ClusterError: a controller that the kubelet needs is missing.
    """
    tops = hierarchies(root)
    if tops == [root]:
        offered = (root / "cgroup.controllers").read_text().split()
        if missing := [c for c in _NEEDED if c not in offered]:
            raise ClusterError(f"the kernel offers no cgroup controller {', '.join(missing)} at {root}")
    elif missing := [c for c in _NEEDED if not (root / c).exists()]:
        raise ClusterError(f"cgroup controllers {', '.join(missing)} are not mounted below {root}")
    for top in tops:
        group = _make(top / name, (os.cpu_count() or 1) + DAEMON_CORES)
        for node, cores in nodes.items():
            _make(group / node, cores)
    for top in _daemon_tops(root):
        _make(top / name / DAEMONS, DAEMON_CORES)


def _make(group: Path, cores: float) -> Path:
    """Creates a group with what its members need, and with the weight of so many cores."""
    above = group.parent
    if (above / "cgroup.controllers").exists():
        for controller in (above / "cgroup.controllers").read_text().split():
            # Some cannot be delegated on some kernels; the needed ones are checked by the kubelet anyway.
            with contextlib.suppress(OSError):
                (above / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir(exist_ok=True)
    # Under version 1 a new cpuset group is empty, and no process can join it.
    if not (group / "cgroup.controllers").exists():
        for knob in ("cpuset.cpus", "cpuset.mems"):
            if (above / knob).exists():
                (group / knob).write_text((above / knob).read_text())
    _set_weight(group, cores)
    return group


def _daemon_tops(root: Path) -> Iterable[Path]:
    """The hierarchies with a group of daemons: where processes are identified, and where CPU is shared."""
    return dict.fromkeys([_tracking(root), *(top for top in hierarchies(root) if (top / "cpu.shares").exists())])


def join_daemons(name: str, group: str, process: ProcessId, root: Path = ROOT) -> None:
    """Moves a process into /NAME/daemons/GROUP, which it creates; the process's future children join it too."""
    for top in _daemon_tops(root):
        folder = top / name / DAEMONS / group
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(ProcessLookupError):
            (folder / "cgroup.procs").write_text(str(process.pid))


def node_groups(name: str, root: Path = ROOT) -> list[str]:
    """The names of the nodes' groups that exist."""
    top = _tracking(root) / name
    found = sorted(path.name for path in top.iterdir() if path.is_dir()) if top.exists() else []
    return [group for group in found if group != DAEMONS]


def members(name: str, below: Iterable[str] = ("",), root: Path = ROOT) -> list[ProcessId]:
    """Every live process in the groups /NAME/BELOW and the groups under them."""
    top = _tracking(root) / name
    found: list[ProcessId] = []
    for group in (group for part in below for group in _tree(top / part)):
        with contextlib.suppress(OSError):  # the group may disappear meanwhile
            pids = (group / "cgroup.procs").read_text().split()
            found += [process for pid in pids if (process := identify(int(pid)))]
    return found


def end_members(name: str, below: Iterable[str], grace_s: float) -> None:
    """Stops every process in these groups. Repeats while new ones appear: a process may fork before its signal comes.

    Args:
        grace_s: seconds until those that SIGTERM does not end are killed; 0: kills at once.
    """
    groups = list(below)
    while found := members(name, groups):
        stop(found, grace_s)
        grace_s = 0.0


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
