"""Processes of one family: they end together, whatever session they are in, and go on when they were stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from server_process import eventually

from sponge_server.workers.family import end_family, go_on, new_mark, own_children

SLEEP = [sys.executable, "-c", "import time; time.sleep(3600)"]
DETACH = [sys.executable, "-c", "import os, sys, time; os.fork() and sys.exit(); os.setsid(); time.sleep(3600)"]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, env=os.environ | new_mark()) as process:
        yield process
        process.kill()


def test_a_family_ends_with_those_that_left_their_parent_and_no_stranger_does(
    stranger: subprocess.Popen[bytes],
) -> None:
    mark = new_mark()
    alone = subprocess.Popen(SLEEP, env=os.environ | mark, start_new_session=True)
    subprocess.run(DETACH, env=os.environ | mark, check=True)
    eventually(lambda: len(marked(mark)) == 2)
    asyncio.run(end_family(mark, []))
    eventually(lambda: marked(mark) == [])
    assert not psutil.pid_exists(alone.pid)  # nor is it a zombie
    assert stranger.poll() is None
    alone.wait()


def test_a_member_that_has_ended_before_is_reaped(stranger: subprocess.Popen[bytes]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    asyncio.run(end_family(new_mark(), [ended.pid, 1]))
    assert not psutil.pid_exists(ended.pid)
    assert stranger.poll() is None
    ended.wait()


def test_what_was_stopped_goes_on(stranger: subprocess.Popen[bytes]) -> None:
    assert go_on(stranger.pid) == []
    for which in (stranger.pid, None):
        stranger.send_signal(signal.SIGSTOP)
        eventually(lambda which=which: go_on(which) == [stranger.pid])  # type: ignore[misc]
        eventually(lambda: psutil.Process(stranger.pid).status() != psutil.STATUS_STOPPED)
    assert go_on(1) == []


def test_children_of_this_process(stranger: subprocess.Popen[bytes]) -> None:
    assert stranger.pid in own_children()


def marked(mark: dict[str, str]) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if mark.items() <= environment.items():
            found.append(process.pid)
    return found
