"""A process is known by pid and start tick, and only the one that is meant is ever stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sponge_cluster.cleanup import other_folder
from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import ProcessId, alive, check, identify, parse_stat, spawn, stop, tail, wait_until

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    "import pathlib, signal, sys, time; signal.signal(15, signal.SIG_IGN); pathlib.Path('up').touch(); time.sleep(60)",
)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[ProcessId]:
    process = spawn(SLEEP, log=tmp_path / "log", env=os.environ, cwd=tmp_path)
    yield process
    stop([process], 0.0)


def test_a_daemon_of_another_cluster_of_that_name_is_known_by_its_folder(started: ProcessId, tmp_path: Path) -> None:
    assert other_folder(tmp_path, [started]) is None
    assert other_folder(tmp_path / "elsewhere", [started]) == tmp_path
    assert other_folder(tmp_path, [replace(started, pid=2**22)]) is None


@pytest.mark.parametrize(
    ("command", "state"),
    [("sleep", "S"), ("a b", "R"), (") 1 (", "Z"), ("tmux: server)", "S")],
)
def test_stat_is_read_whatever_the_command_is_called(command: str, state: str) -> None:
    numbers = " ".join(str(n) for n in range(4, 53))
    assert parse_stat(f"42 ({command}) {state} {numbers}") == (state, 22)


def test_identify_tells_this_process_and_no_other() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert alive(me)
    assert not alive(replace(me, started=me.started - 1))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and left unreaped
    assert identify(child.pid) is None
    child.wait()


def test_stop_ends_what_it_was_given(started: ProcessId) -> None:
    stop([started], grace_s=5.0)
    assert not alive(started)


def test_stop_leaves_a_stranger_with_a_reused_pid_alone(started: ProcessId) -> None:
    stop([replace(started, started=started.started - 1)], grace_s=0.0)
    assert alive(started)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = spawn(STUBBORN, log=tmp_path / "log", env=os.environ, cwd=tmp_path)
    wait_until((tmp_path / "up").exists, "its start", timeout_s=20.0)
    stop([process], grace_s=0.1)
    assert not alive(process)


def test_stopping_nothing_is_fine() -> None:
    stop([], grace_s=1.0)
    stop([ProcessId(2**22 + 1, 1)], grace_s=1.0)


def test_a_daemon_gets_only_the_environment_that_it_is_given(tmp_path: Path) -> None:
    process = spawn(
        (sys.executable, "-c", "import os; print(sorted(os.environ)); import time; time.sleep(60)"),
        log=tmp_path / "log",
        env={"PYTHONUNBUFFERED": "1", "LC_CTYPE": "C.UTF-8"},
        cwd=tmp_path,
    )
    wait_until(lambda: "]" in (tmp_path / "log").read_text(), "its line", timeout_s=20.0)
    stop([process], 0.0)
    assert (tmp_path / "log").read_text().strip() == "['LC_CTYPE', 'PYTHONUNBUFFERED']"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no-such-program"):
        spawn(("/no-such-program",), log=tmp_path / "log", env={}, cwd=tmp_path)
    with pytest.raises(ClusterError, match="no-such-program"):
        check(["/no-such-program"])


def test_check_says_what_the_command_said_last() -> None:
    with pytest.raises(ClusterError, match=r"`sh -c .*failed: second$"):
        check(["sh", "-c", "echo first >&2; echo second >&2; exit 3"])


def test_check_does_not_wait_for_ever() -> None:
    with pytest.raises(ClusterError, match="did not end within 0 s"):
        check(["sleep", "60"], timeout_s=0.05)


def test_tail_is_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\n  two \n")
    assert tail(tmp_path / "log") == "two"
    assert tail(tmp_path / "none") == "(it said nothing)"


def test_waiting_ends_with_the_guard_or_the_time() -> None:
    def guard() -> None:
        raise ClusterError("etcd ended")

    with pytest.raises(ClusterError, match="etcd ended"):
        wait_until(lambda: False, "it", timeout_s=60.0, guard=guard)
    with pytest.raises(ClusterError, match="it did not happen within 0 s"):
        wait_until(lambda: False, "it", timeout_s=0.0)
