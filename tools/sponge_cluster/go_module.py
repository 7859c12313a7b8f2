"""Programs that are built once from a Go module of this source tree, into a folder of the per-user cache.

Built rather than downloaded, because the Go module proxy is reachable in places where release pages and image
registries are not, and go.sum pins every byte of the source. The cache folder's name holds a version and a hash of the
module, so a changed version never meets an old binary.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.locks import locked
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_system.cache_folder import cache_root

__all__ = ["GoModule", "go_is_new_enough", "module_versions"]

_STRIPPED = "-s -w"


def module_versions(go_mod: str) -> dict[str, str]:
    """The version of each directly required module in a go.mod's text, and that of Go itself under "go"."""
    versions = {m[1]: m[2] for m in re.finditer(r"^\s+(\S+) (v\S+)$", go_mod, re.MULTILINE)}
    if found := re.search(r"^go (\S+)$", go_mod, re.MULTILINE):
        versions["go"] = found[1]
    return versions


@dataclass(frozen=True, slots=True)
class GoModule:
    """A Go module and what is built from it.

    Attributes:
        folder: of go.mod.
        sources: the module's own files, which the cache key covers.
        programs: Go package by program name, in the order of building.
        main: the module whose version names the cache folder.
        what: the programs, for error messages.
        disk_bytes: free space that a build from nothing needs.
        link_flags: linker flags for the versions in go.mod.
    """

    folder: Path
    sources: tuple[str, ...]
    programs: Mapping[str, str]
    main: str
    what: str
    disk_bytes: float
    link_flags: Callable[[Mapping[str, str]], str] = lambda _pinned: _STRIPPED

    @property
    def versions(self) -> dict[str, str]:
        """As `module_versions`, of this module."""
        return module_versions((self.folder / "go.mod").read_text())

    @property
    def cache_folder(self) -> Path:
        """The folder for the programs of this module's versions."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update((self.folder / source).read_bytes())
        return cache_root() / f"bin-{self.versions[self.main]}-{digest.hexdigest()[:12]}"

    def ensure(self, names: Sequence[str], progress: Progress) -> dict[str, Path]:
        """Returns the paths of the named programs, and builds those that are not in the cache.

        With two callers at once, the second one waits for the first and finds the programs built.

        Raises:
            ClusterError: Go is missing or too old, the disk is too full, or a build failed.
        """
        folder = self.cache_folder
        if all((folder / name).exists() for name in names):
            return {name: folder / name for name in names}
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock", lambda: progress.say("waiting for another build of the same programs")):
            if todo := [name for name in names if not (folder / name).exists()]:
                self._build(todo, folder, progress)
        return {name: folder / name for name in names}

    def source_of(self, module: str) -> Path:
        """The folder with the sources of a required module. Raises ClusterError."""
        environment = _environment()
        found = check(
            [self._go(environment), "list", "-m", "-f", "{{.Dir}}", module],
            env=environment,
            cwd=self.folder,
            timeout_s=300.0,
        )
        return Path(found.strip())

    def _build(self, names: Sequence[str], folder: Path, progress: Progress) -> None:
        environment = _environment()
        go = self._go(environment)
        self._check_disk(go, environment, folder)
        progress.say(f"building {len(names)} programs into {folder}; this takes minutes, once")
        staging = folder / f".building-{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            for number, name in enumerate(names, 1):
                with progress.busy(f"building {name} ({number}/{len(names)})"):
                    self._build_one(go, self.programs[name], staging / name, environment)
                # Moved into place one by one, so that an interrupted build continues where it stopped.
                (staging / name).rename(folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _build_one(self, go: str, package: str, target: Path, environment: Mapping[str, str]) -> None:
        argv = [go, "build", "-trimpath", "-ldflags", self.link_flags(self.versions), "-o", str(target), package]
        child = subprocess.Popen(
            argv, cwd=self.folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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

    def _go(self, environment: Mapping[str, str]) -> str:
        needed = self.versions["go"]
        go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
        if not go:
            raise ClusterError(
                f"{self.what} is built with Go {needed} or newer, and there is no `go`: install it from https://go.dev/dl"
            )
        # Inside the module, where Go may switch to the toolchain that go.mod asks for.
        said = check([go, "version"], env=environment, cwd=self.folder, timeout_s=300.0)
        if not go_is_new_enough(said, needed):
            raise ClusterError(
                f"Go {needed} or newer is needed, `{go} version` says: {said.strip()}; install it from https://go.dev/dl"
            )
        return go

    def _check_disk(self, go: str, environment: Mapping[str, str], folder: Path) -> None:
        caches = check([go, "env", "GOCACHE", "GOMODCACHE"], env=environment).split()
        for path in (folder, *(Path(cache) for cache in caches)):
            existing = next(up for up in (path, *path.parents) if up.exists())
            if (free := shutil.disk_usage(existing).free) < self.disk_bytes:
                raise ClusterError(
                    f"building needs about {self.disk_bytes / 1e9:.0f} GB, {existing} has {free / 1e9:.1f} GB free:"
                    " make room, or set GOCACHE, GOMODCACHE and XDG_CACHE_HOME to a larger disk"
                )


def _environment() -> dict[str, str]:
    # The module decides what is built, not the user's settings: the cache key covers only the module.
    ours = {"GOFLAGS": "-mod=readonly -buildvcs=false", "GOWORK": "off", "CGO_ENABLED": "0"}
    return {key: value for key, value in os.environ.items() if key not in ("GOOS", "GOARCH")} | ours


def go_is_new_enough(said: str, needed: str) -> bool:
    """Whether the output of `go version` names the version `needed` (as in "1.26.0") or a later one."""
    found = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", said)
    if not found:
        return False
    return tuple(int(part or 0) for part in found.groups()) >= tuple(int(part) for part in needed.split("."))
