"""The engine to build with: the user's own, or a clear word on why there is none; and what ours does for runc."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sponge_cluster.errors import ClusterError
from sponge_cluster.progress import SilentProgress
from sponge_images.engine import RUNC, Docker, engine

Program = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Puts a shell script of that name into the PATH, which has nothing else but a shell's own programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "sed"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)

    return write


def test_an_engine_that_answers_is_used(program: Program) -> None:
    program("docker", 'echo "$@"')
    with engine(SilentProgress()) as docker:
        assert docker.ask("image", "ls") == "image ls\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (None, "cannot run `docker info`"),
        ("echo 'Cannot connect to the Docker daemon.' >&2; exit 1", "Cannot connect to the Docker daemon"),
        ("echo 'permission denied while trying to connect' >&2; exit 1", "permission denied while trying to connect"),
    ],
)
@pytest.mark.parametrize("root", [True, False])
def test_without_an_engine_the_error_says_why_and_what_to_do(
    program: Program, monkeypatch: pytest.MonkeyPatch, script: str | None, says: str, root: bool
) -> None:
    # A root without apt-get can start no engine of our own either.
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    if script is not None:
        program("docker", script)
    with pytest.raises(ClusterError, match=says) as caught, engine(SilentProgress()):
        pass
    assert "Install Docker and start it" in str(caught.value)


@pytest.mark.parametrize("after", ["1", "2"])
def test_a_build_removes_what_had_the_tag_before(program: Program, tmp_path: Path, after: str) -> None:
    now, removed = tmp_path / "now", tmp_path / "removed"
    now.write_text("1")
    program(
        "docker",
        f"""case "$*" in
        build*) echo {after} > {now} ;;
        "image inspect"*) cat {now} ;;
        "image rm"*) echo "$3" >> {removed} ;;
        esac""",
    )
    Docker(os.environ).build("sponge-server:1", "/folder")
    assert (removed.read_text().split() if removed.exists() else []) == (["1"] if after != "1" else [])


def test_the_first_build_of_a_tag_removes_nothing(program: Program, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program("docker", f'echo "$1 $2" >> {calls}; [ "$1" = build ]')
    Docker(os.environ).build("sponge-server:1", "/folder")
    assert calls.read_text().splitlines() == ["image inspect", "build --tag"]


def test_a_build_that_fails_is_told(program: Program) -> None:
    program("docker", "exit 3")
    with pytest.raises(ClusterError, match=r"`docker build --tag sponge-server:1` failed with exit code 3"):
        Docker(os.environ).build("sponge-server:1", "/folder")


SYS = "CAP_SYS_RESOURCE"


@pytest.mark.parametrize("flag", ["--bundle", "-b", "--process", "-p"])
@pytest.mark.parametrize("names", [[SYS], [SYS, "CAP_KILL"], ["CAP_KILL", SYS], ["CAP_KILL", SYS, "CAP_CHOWN"], []])
def test_runc_is_never_asked_for_a_capability_that_cannot_be_given(
    program: Program, tmp_path: Path, flag: str, names: list[str]
) -> None:
    asked: dict[str, Any] = {"process": {"capabilities": {"bounding": names, "effective": names}, "args": ["sh"]}}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(asked, separators=(",", ":")))
    program("runc", f'echo "$@"; cat {config}')
    program("wrapper", RUNC)
    path = str(tmp_path if flag in ("--bundle", "-b") else config)
    said = subprocess.run(["wrapper", "create", flag, path, "id"], capture_output=True, text=True, check=True).stdout
    words, _, given = said.partition("\n")
    left = [name for name in names if name != SYS]
    assert words == f"create {flag} {path} id"
    assert json.loads(given) == {"process": {"capabilities": {"bounding": left, "effective": left}, "args": ["sh"]}}
