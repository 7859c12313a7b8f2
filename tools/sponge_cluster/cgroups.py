"""Creates and removes the cluster's cgroups, and lists their processes: version 1, version 2 or the hybrid of both.

The kubelet puts its pods below /NAME. The daemons go to /NAME/daemons in one hierarchy (pids, or the unified one). That
group limits nothing; it identifies every process of the cluster, container shims included, even without a state file.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import ProcessId, identify

__all__ = ["ROOT", "create", "daemons", "hierarchies", "join", "members", "remove"]

ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuset", "memory", "pids")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The top folder of every mounted hierarchy: a single one under version 2, one per controller under version 1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(path for path in root.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def _tracking(root: Path) -> Path:
    return root if (root / "cgroup.controllers").exists() else root / "pids"


def create(name: str, root: Path = ROOT) -> None:
    """Creates /NAME in every hierarchy, and the daemons' group.

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
    daemons(name, root).mkdir(exist_ok=True)


def daemons(name: str, root: Path = ROOT) -> Path:
    """The group of the cluster's daemons."""
    return _tracking(root) / name / "daemons"


def join(group: Path, process: ProcessId) -> None:
    """Moves a process into a group; its future children join it too."""
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
