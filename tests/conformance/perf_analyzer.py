"""NVIDIA's perf_analyzer in a folder of its own, and the C library that it wants where the machine's is older."""

from __future__ import annotations

import csv
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from sponge_system.cache_folder import cache_root

__all__ = ["load", "perf_analyzer"]

VERSION = "2.60.0"
BUILT_FOR = "x86_64-manylinux_2_38"
LIBRARIES_OF, LIBRARIES = "trixie", ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@pytest.fixture(scope="session")
def perf_analyzer() -> list[str]:
    """The command. Skips where the program cannot run."""
    cache = cache_root()
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / f"client-perf-analyzer-{VERSION}"
    program = place / "perf_analyzer/bin/perf_analyzer"
    with (cache / "client-perf-analyzer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            target = ["--target", str(place), "--python-platform", BUILT_FOR]
            wheel = f"perf-analyzer=={VERSION}"
            subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", *target, wheel], check=True)
        if _runs([str(program)]):
            return [str(program)]
        libraries = place / "libraries"
        if not (libraries / "complete").exists():
            _fetch(libraries)
    found = libraries / "usr/lib/x86_64-linux-gnu"
    command = [str(found / "ld-linux-x86-64.so.2"), "--library-path", str(found), str(program)]
    if not _runs(command):
        pytest.skip("perf_analyzer does not run here: it is built for a newer C library")
    return command


def load(command: list[str], *options: str, report: Path) -> dict[str, str]:
    """One short run; the line of its report."""
    given = ["--concurrency-range", "2", "--measurement-mode", "count_windows", "--measurement-request-count", "50"]
    more = ["--stability-percentage", "999", "--max-trials", "3", "-f", str(report)]
    done = subprocess.run([*command, *given, *more, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with report.open() as file:
        (line,) = csv.DictReader(file)
    return line


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _fetch(place: Path) -> None:
    """Unpacks Debian's newer libraries, from wherever this machine gets its packages; it installs nothing."""
    if not KEYS.exists():
        pytest.skip("perf_analyzer wants a newer C library, and this machine has no Debian packages")
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    origins = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    if not origins:
        pytest.skip("perf_analyzer wants a newer C library: run `apt-get update` first")
    sources = place / "sources.list"
    sources.write_text(f"deb [signed-by={KEYS}] {origins[0]} {LIBRARIES_OF} main\n")
    apt = ["apt-get", "--quiet", "--quiet"]
    for option in (f"State={place}/state", f"Cache={place}/cache", f"Etc::sourcelist={sources}", "Etc::sourceparts=-"):
        apt += ["--option", f"Dir::{option}"]
    subprocess.run([*apt, "--option", "Dir::State::status=/dev/null", "update"], check=True, capture_output=True)
    subprocess.run([*apt, "download", *LIBRARIES], check=True, capture_output=True, cwd=place)
    for package in place.glob("*.deb"):
        subprocess.run(["dpkg", "--extract", str(package), str(place)], check=True)
    (place / "complete").touch()
