"""Removes what the node's parts leave behind outside the run folder, or mounted inside it.

The paths are constants of Kubernetes, libcni and containerd that no setting changes. Every function may be called
again, and on a machine where nothing is left.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import ProcessId, alive, check, identify

__all__ = [
    "foreign_daemon",
    "in_other_network",
    "mounts_below",
    "other_folder",
    "remove_folder",
    "remove_outside",
    "shim_sockets",
    "unmount_below",
]

_CNI_CACHE = Path("/var/lib/cni/results")
_CONTAINER_LOGS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")


def foreign_daemon(name: str, namespace: str, ours: Iterable[int]) -> int | None:
    """The pid of a process with this name that shares our namespace (net, mnt, ...) and is not one of `ours`."""
    known, here = set(ours), Path(f"/proc/self/ns/{namespace}").stat().st_ino
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in known:
            continue
        with contextlib.suppress(OSError):  # it may end meanwhile
            named = (folder / "comm").read_text().strip() == name
            # A zombie still has its name and its namespaces.
            if named and identify(int(folder.name)) and (folder / "ns" / namespace).stat().st_ino == here:
                return int(folder.name)
    return None


def in_other_network(daemon: ProcessId) -> bool:
    """Whether it runs, in a network namespace that is not ours."""
    if not alive(daemon):
        return False
    with contextlib.suppress(OSError):  # it may end meanwhile
        theirs, ours = (Path(f"/proc/{each}/ns/net").stat().st_ino for each in (daemon.pid, "self"))
        return theirs != ours
    return False


def other_folder(run: Path, daemons: Iterable[ProcessId]) -> Path | None:
    """The folder of one of these daemons that was not started in `run`, as each of a cluster's own was."""
    for daemon in daemons:
        with contextlib.suppress(OSError):  # it may end meanwhile
            started_in = Path(str(Path(f"/proc/{daemon.pid}/cwd").readlink()).removesuffix(" (deleted)"))
            if not started_in.is_relative_to(run.resolve()):
                return started_in
    return None


def mounts_below(folder: Path, mountinfo: str) -> list[Path]:
    """The mount points at or below a folder in the text of /proc/self/mountinfo, the last mounted one first."""
    points = [_unescape(line.split()[4]) for line in mountinfo.splitlines() if line]
    return [Path(point) for point in reversed(points) if Path(point).is_relative_to(folder)]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _present_mounts(folder: Path) -> list[Path]:
    return mounts_below(folder, Path("/proc/self/mountinfo").read_text())


def unmount_below(folder: Path) -> None:
    """Unmounts everything below the folder; a mount in use disappears as soon as it is free."""
    for point in _present_mounts(folder):
        # A mount may have disappeared with another one, or with its process.
        with contextlib.suppress(ClusterError):
            check(["umount", "--lazy", str(point)])


def shim_sockets(node: Path) -> list[Path]:
    """The sockets of a node's container shims, which are outside its folder; each shim's folder names its socket."""
    tasks = node / "containerd" / "state" / "io.containerd.runtime.v2.task"
    return [Path(file.read_text().strip().removeprefix("unix://")) for file in tasks.glob("*/*/address")]


def remove_outside(run: Path, network: str, sockets: Iterable[Path]) -> None:
    """Removes shim sockets, CNI cache entries of our network, log links into the run folder, the kubelet's socket."""
    for socket in sockets:
        socket.unlink(missing_ok=True)
    for entry in _CNI_CACHE.glob(f"{network}-*-eth0"):
        # Each pod has a second entry, for its loopback, under a name that all containerds share.
        pod = entry.name.removeprefix(f"{network}-").removesuffix("-eth0")
        entry.with_name(f"cni-loopback-{pod}-lo").unlink(missing_ok=True)
        entry.unlink()
    for link in _CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(run):
            link.unlink(missing_ok=True)
    for file in ("kubelet.sock", "kubelet_internal_checkpoint"):
        (_DEVICE_PLUGINS / file).unlink(missing_ok=True)
    for folder in (_CNI_CACHE, _CNI_CACHE.parent, _CONTAINER_LOGS, _DEVICE_PLUGINS, _DEVICE_PLUGINS.parent):
        with contextlib.suppress(OSError):  # absent, or it holds other things
            folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Deletes a folder of the cluster.

    Raises:
        ClusterError: something is still mounted in it. Deleting would then reach into what is mounted: a pod's
        hostPath, say.
    """
    if still := _present_mounts(folder):
        raise ClusterError(f"{still[0]} is still mounted; unmount it and run `sponge cluster down` again")
    shutil.rmtree(folder, ignore_errors=False)
