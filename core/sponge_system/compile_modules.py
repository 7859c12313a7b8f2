"""Compiles the hot modules of core and simulator with mypyc into this Python environment.

Run `python -m sponge_system.compile_modules`; `make setup` does. A cache keeps builds by sources, interpreter and mypy,
so a new environment or checkout copies them. Without a C compiler, Python's headers or mypyc, the command says what is
missing and exits with 1, and the core stays interpreted. `sponge_compiled` lets the packages find the result.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import click

import sponge_compiled
from sponge_compiled import MODULES, SOURCES, folder
from sponge_core.errors import SpongeError, needs_extra
from sponge_system.cache_folder import cache_root

__all__ = ["main"]

TIMEOUT_S = 600

_COMPILER = ("-m", "mypyc")

KEPT = 8
"""How many of the newest builds to keep: several checkouts may share an environment."""

TOOLS = ("mypyc", "setuptools")


class _CannotCompileError(SpongeError):
    """Something is missing or failed. The core works interpreted."""


def main() -> int:
    """Returns the exit code."""
    try:
        for package, modules in MODULES.items():
            _install(_sources(package), modules)
    except (_CannotCompileError, OSError) as error:
        click.echo(f"no compiled core: decisions run interpreted, which is slower. {error}", err=True)
        return 1
    return 0


def _sources(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _install(sources: Path, modules: Sequence[str]) -> None:
    target, began = folder(sources, modules), time.monotonic()
    if target.exists():
        click.echo(f"compiled {sources.name}: up to date in {target}")
        return
    for tool in TOOLS:
        if importlib.util.find_spec(tool) is None:
            raise _CannotCompileError(needs_extra("compiling", tool, "dev"))
    cached = cache_root() / f"{target.name}-mypy-{version('mypy')}"
    if not cached.exists():
        _build(sources, modules, cached)
    _copy(cached, target)
    _forget(cached.parent.glob(f"{sources.name}-*"))
    _forget(target.parent.glob(f"{sources.name}-*"))
    click.echo(f"compiled {sources.name}: in {target}, took {time.monotonic() - began:.0f} s")


def _build(sources: Path, modules: Sequence[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sponge-core-") as scratch:
        work = Path(scratch)
        for needed in {SOURCES, sources, Path(sponge_compiled.__file__).parent}:
            shutil.copytree(needed, work / needed.name, ignore=shutil.ignore_patterns("__pycache__"))
        files = [f"{sources.name}/{module}.py" for module in modules]
        try:
            done = subprocess.run(
                [sys.executable, *_COMPILER, *files],
                cwd=work,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _CannotCompileError(f"mypyc took longer than {TIMEOUT_S} s") from None
        if done.returncode != 0:
            said = [line.strip() for line in done.stdout.splitlines() if "error" in line.lower()]
            raise _CannotCompileError(
                f"A C compiler and Python's headers are needed; mypyc says: {' | '.join(said[-2:])}"
            )
        built = work / "built"
        for extension in [*work.glob("*.so"), *(work / sources.name).rglob("*.so")]:
            place = built / extension.relative_to(work)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(extension, place)
        _copy(built, target)


def _forget(builds: Iterable[Path]) -> None:
    for old in sorted(builds, key=lambda build: build.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a folder whole or not at all, even if two processes do it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, staging / "whole")
        (staging / "whole").rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
