"""Programs of the kind test that are built with Go, each once into a folder of the cache that names its version."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sponge_cluster import binaries
from sponge_cluster.errors import ClusterError
from sponge_cluster.go_module import module_versions
from sponge_cluster.locks import locked
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_system.cache_folder import cache_root

__all__ = ["KIND", "coredns", "kind", "kubeadm"]

KIND = "v0.33.0"
_BUILD_S = 1800.0


def kind(progress: Progress) -> Path:
    """kind itself; the user's own if there is one."""
    own = shutil.which("kind")
    return Path(own) if own else _installed("sigs.k8s.io/kind", KIND, progress, "kind, or Go")


def coredns(version: str, progress: Progress) -> Path:
    """The cluster's name server."""
    return _installed("github.com/coredns/coredns", version, progress)


def kubeadm(progress: Progress) -> Path:
    """kubeadm of the same version as the local cluster's programs, from the same pinned module."""
    target = binaries.MODULE.cache_folder / "kubeadm"
    with locked(binaries.MODULE.cache_folder / ".kubeadm.lock", lambda: progress.say("waiting for another build")):
        if not target.exists():
            with tempfile.TemporaryDirectory(prefix="sponge-kubeadm-") as scratch, progress.busy("building kubeadm"):
                module = Path(scratch) / "module"
                shutil.copytree(binaries.MODULE.folder, module)
                # It needs a few modules that the other programs do not.
                flags = binaries.link_flags(module_versions((module / "go.mod").read_text()))
                built = Path(scratch) / "kubeadm"
                _go(
                    *("build", "-mod=mod", "-trimpath", "-ldflags", flags),
                    *("-o", str(built), "k8s.io/kubernetes/cmd/kubeadm"),
                    folder=module,
                )
                _move(built, target)
    return target


def _installed(package: str, version: str, progress: Progress, missing: str = "Go") -> Path:
    name = package.rpartition("/")[2]
    folder = cache_root() / f"{name}-{version}"
    target = folder / name
    with locked(cache_root() / f"{name}.lock", lambda: progress.say(f"waiting for another build of {name}")):
        if not target.exists():
            with (
                tempfile.TemporaryDirectory(prefix=f"sponge-{name}-") as scratch,
                progress.busy(f"building {name} {version}"),
            ):
                install = ("install", "-trimpath", f"{package}@{version}")
                _go(*install, folder=Path(scratch), missing=missing, GOBIN=scratch)
                folder.mkdir(parents=True, exist_ok=True)
                _move(Path(scratch) / name, target)
    return target


def _go(*words: str, folder: Path, missing: str = "Go", **environment: str) -> None:
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise ClusterError(f"there is no `go`, which builds {words[-1]}: install {missing}")
    settings = {"GOFLAGS": "-buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0"} | environment
    check([go, *words], cwd=folder, env=dict(os.environ) | settings, timeout_s=_BUILD_S)


def _move(built: Path, target: Path) -> None:
    staged = target.with_name(f".{target.name}-new")
    shutil.copy2(built, staged)
    staged.rename(target)
