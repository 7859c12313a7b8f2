"""Finds the Linux distribution's programs that the native node needs, and installs them with apt-get if it exists."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.images import is_static_elf
from sponge_cluster.progress import Progress

__all__ = ["SystemPrograms", "daemon_environment", "find_programs", "install_missing", "missing_packages"]

_COMMANDS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "socat": "socat",
}
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
# A user's PATH often lacks the sbin folders, which hold iptables and others.
_PATH = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))


@dataclass(frozen=True, slots=True)
class SystemPrograms:
    """Paths of the programs; `busybox` is statically linked."""

    containerd: Path
    ctr: Path
    cni_bin: Path
    busybox: Path


def daemon_environment() -> Mapping[str, str]:
    """The environment of every daemon; it takes nothing from the caller's, such as proxies."""
    return {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def missing_packages() -> list[str]:
    """The sorted Debian packages with programs that this machine lacks."""
    missing = {package for command, package in _COMMANDS.items() if not shutil.which(command, path=_PATH)}
    if _cni_bin() is None:
        missing.add("containernetworking-plugins")
    if static_busybox() is None:
        missing.add("busybox-static")
    return sorted(missing)


def _cni_bin() -> Path | None:
    return next((f for f in _CNI_FOLDERS if (f / "bridge").exists() and (f / "host-local").exists()), None)


def static_busybox() -> Path | None:
    found = shutil.which("busybox", path=_PATH)
    return Path(found) if found and is_static_elf(Path(found)) else None


def install_missing(progress: Progress) -> None:
    """Installs the `missing_packages` with apt-get.

    Raises:
        ClusterError: there is no apt-get, or it failed; the message names the packages.
    """
    if not (missing := missing_packages()):
        return
    names = " ".join(missing)
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"the native cluster needs programs that Debian packages as {names}; install them and try again"
        )
    with progress.busy(f"installing {names}"):
        for argv in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
            environment = dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
            # An update may fail for one source and still be sufficient; the installation shows it.
            if done.returncode != 0 and argv[1] == "install":
                said = (done.stderr or done.stdout).strip().splitlines()
                raise ClusterError(f"`apt-get install {names}` failed: {said[-1] if said else done.returncode}")
    if still := missing_packages():
        raise ClusterError(f"still missing after installation: {' '.join(still)}; install them by hand and try again")


def find_programs() -> SystemPrograms:
    """Finds the programs.

    Raises:
        ClusterError: one is missing; the message names its package.
    """
    containerd, ctr = shutil.which("containerd", path=_PATH), shutil.which("ctr", path=_PATH)
    cni_bin, busybox = _cni_bin(), static_busybox()
    if not (containerd and ctr and cni_bin and busybox):
        raise ClusterError(f"missing on this machine; run: apt-get install {' '.join(missing_packages())}")
    return SystemPrograms(Path(containerd), Path(ctr), cni_bin, busybox)
