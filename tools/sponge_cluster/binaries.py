"""Kubernetes, etcd, kubectl and helm, built once from the Go module in `native/` into a per-user cache.

Built rather than downloaded, because the Go module proxy is reachable in places where release pages and image
registries are not, and go.sum pins every byte of the source. The cache folder's name holds the Kubernetes version and
a hash of the module, so a changed version never meets an old binary.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.locks import locked
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_system.cache_folder import cache_root

__all__ = [
    "CLIENTS",
    "PROGRAMS",
    "cache_folder",
    "ensure",
    "go_is_new_enough",
    "link_flags",
    "module_versions",
    "versions",
]

MODULE = Path(__file__).parent / "native"
_SOURCES = ("go.mod", "go.sum", "tools.go", "etcd/main.go")
_KUBERNETES, _HELM = "k8s.io/kubernetes", "helm.sh/helm/v3"

PROGRAMS: Mapping[str, str] = {
    # The API server first: it compiles most of the code that the others share, so they build quickly.
    **{
        name: f"{_KUBERNETES}/cmd/{name}"
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
    },
    "etcd": "./etcd",
    "helm": f"{_HELM}/cmd/helm",
}
"""Program name -> Go package."""

CLIENTS = ("kubectl", "helm")
"""The programs that talk to a cluster."""

# Measured with a cold cache: 3.2 GB of build cache, 1.0 GB of sources, 0.6 GB of programs.
_DISK_NEEDED = 6 * 1000**3


def module_versions(go_mod: str) -> dict[str, str]:
    """The version of each directly required module in a go.mod's text, and that of Go itself under "go"."""
    versions = {m[1]: m[2] for m in re.finditer(r"^\s+(\S+) (v\S+)$", go_mod, re.MULTILINE)}
    if found := re.search(r"^go (\S+)$", go_mod, re.MULTILINE):
        versions["go"] = found[1]
    return versions


def _versions() -> dict[str, str]:
    return module_versions((MODULE / "go.mod").read_text())


def versions() -> dict[str, str]:
    """The pinned versions of kubernetes, etcd and helm."""
    pinned = _versions()
    return {"kubernetes": pinned[_KUBERNETES], "etcd": pinned["go.etcd.io/etcd/server/v3"], "helm": pinned[_HELM]}


def cache_folder() -> Path:
    """The folder for the programs of this module's versions."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update((MODULE / source).read_bytes())
    return cache_root() / f"bin-{_versions()[_KUBERNETES]}-{digest.hexdigest()[:12]}"


def ensure(names: Sequence[str], progress: Progress) -> dict[str, Path]:
    """Returns the paths of the named programs, and builds those that are not in the cache.

    With two callers at once, the second one waits for the first and finds the programs built.

    Raises:
        ClusterError: Go is missing or too old, the disk is too full, or a build failed.
    """
    folder = cache_folder()
    if all((folder / name).exists() for name in names):
        return {name: folder / name for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", lambda: progress.say("waiting for another build of the same programs")):
        if todo := [name for name in names if not (folder / name).exists()]:
            _build(todo, folder, progress)
    return {name: folder / name for name in names}


def _build(names: Sequence[str], folder: Path, progress: Progress) -> None:
    environment = _environment()
    go = _find_go(environment)
    _check_disk(go, environment, folder)
    progress.say(f"building {len(names)} programs into {folder}; this takes minutes, once")
    staging = folder / f".building-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        for number, name in enumerate(names, 1):
            with progress.busy(f"building {name} ({number}/{len(names)})"):
                _go_build(go, PROGRAMS[name], staging / name, environment)
            # Moved into place one by one, so that an interrupted build continues where it stopped.
            (staging / name).rename(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _go_build(go: str, package: str, target: Path, environment: Mapping[str, str]) -> None:
    argv = [go, "build", "-trimpath", "-ldflags", link_flags(_versions()), "-o", str(target), package]
    child = subprocess.Popen(
        argv, cwd=MODULE, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = child.communicate()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    if child.returncode != 0:
        lines = [line for line in said.strip().splitlines() if not line.startswith("go: downloading")]
        raise ClusterError(f"building {package} failed: {' | '.join(lines[-3:]) or child.returncode}")


def link_flags(pinned: Mapping[str, str]) -> str:
    """Linker flags for stripped programs that know their version. Without it, Kubernetes gates its features wrongly."""
    version = pinned[_KUBERNETES]
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    sets = [
        f"-X {package}.{key}={value}"
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for key, value in values.items()
    ]
    return " ".join(["-s", "-w", *sets, f"-X {_HELM}/internal/version.version={pinned[_HELM]}"])


def _environment() -> dict[str, str]:
    # The module decides what is built, not the user's settings: the cache key covers only the module.
    ours = {"GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0"}
    return {key: value for key, value in os.environ.items() if key not in ("GOOS", "GOARCH")} | ours


def _find_go(environment: Mapping[str, str]) -> str:
    needed = _versions()["go"]
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise ClusterError(
            f"the native cluster is built with Go {needed} or newer, and there is no `go`: install it from https://go.dev/dl"
        )
    # Inside the module, where Go may switch to the toolchain that go.mod asks for.
    said = check([go, "version"], env=environment, cwd=MODULE, timeout_s=300.0)
    if not go_is_new_enough(said, needed):
        raise ClusterError(
            f"Go {needed} or newer is needed, `{go} version` says: {said.strip()}; install it from https://go.dev/dl"
        )
    return go


def go_is_new_enough(said: str, needed: str) -> bool:
    """Whether the output of `go version` names the version `needed` (as in "1.26.0") or a later one."""
    found = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", said)
    if not found:
        return False
    return tuple(int(part or 0) for part in found.groups()) >= tuple(int(part) for part in needed.split("."))


def _check_disk(go: str, environment: Mapping[str, str], folder: Path) -> None:
    caches = check([go, "env", "GOCACHE", "GOMODCACHE"], env=environment).split()
    for path in (folder, *(Path(cache) for cache in caches)):
        existing = next(up for up in (path, *path.parents) if up.exists())
        if (free := shutil.disk_usage(existing).free) < _DISK_NEEDED:
            raise ClusterError(
                f"building needs about {_DISK_NEEDED / 1e9:.0f} GB, {existing} has {free / 1e9:.1f} GB free: make room,"
                " or set GOCACHE, GOMODCACHE and XDG_CACHE_HOME to a larger disk"
            )
