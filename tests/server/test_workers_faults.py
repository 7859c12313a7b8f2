"""The worker pool when something is wrong with its processes or this machine: in the end, every lane is back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from lane_models import DETACH, FAIL, FLAG, FORK, FORK_TWICE, HANG, LEAK_FILES, LEAK_THREADS, ORPHAN
from lane_pool import DEADLINE_S, MOODY, doubled, importable_models, item, until

from sponge_server.workers import fork_client, lane, pool
from sponge_server.workers.interface import LaneCrashed, LaneHung, ModelSpec
from sponge_server.workers.ipc import Message
from sponge_server.workers.lane import WorkerLane
from sponge_server.workers.pool import WorkerPool

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module", autouse=True)
def _importable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with importable_models(**{FLAG: str(tmp_path_factory.mktemp("flags") / "flag")}):
        yield


class Flag:
    """While it is up, the model `flagged` neither loads nor answers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def up(self) -> None:
        self._path.touch()

    def down(self) -> None:
        self._path.unlink(missing_ok=True)


@pytest.fixture
def flag() -> Iterator[Flag]:
    flag = Flag(Path(os.environ[FLAG]))
    yield flag
    flag.down()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_pool() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool([MOODY])
    await pool.start(2)
    yield pool
    await pool.close()


@pytest_asyncio.fixture(loop_scope="module")
async def pool_of_two(one_pool: WorkerPool) -> WorkerPool:
    """Two healthy lanes, whatever the test before has done to them."""
    await until(lambda: len(one_pool.pids) == 3 and all(lane.healthy for lane in one_pool.lanes))
    return one_pool


async def back(pool: WorkerPool) -> None:
    """Waits until every lane is healthy, and checks that each one answers."""
    await until(lambda: all(lane.healthy for lane in pool.lanes))
    for each in pool.lanes:
        assert doubled((await each.run([item((7.0, 8.0))], threads=1)).outputs[0]) == [14.0, 16.0]


async def lose(killed: WorkerLane) -> None:
    """Kills the lane's process and waits until the pool knows that it is gone."""
    before = killed.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    await until(lambda: killed.pid != before or not killed.healthy)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.msg == name]  # type: ignore[attr-defined]


@contextlib.contextmanager
def no_files(pid: int) -> Iterator[None]:
    """Context in which the process can open no more files."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_server_without_file_descriptors_gets_its_lane_back_later(
    pool_of_two: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    first = pool_of_two.lanes[0]
    with no_files(os.getpid()):
        os.kill(first.pid or 0, signal.SIGKILL)
        await until(lambda: len(events(caplog, "lane.not_started")) >= 2)
        assert not first.healthy
    assert "Too many open files" in str(events(caplog, "lane.not_started")[0]["error"])
    await back(pool_of_two)


async def test_a_fork_server_without_file_descriptors_says_so_and_goes_on(
    pool_of_two: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    fork_server, dead, other = pool_of_two.pids
    with no_files(fork_server):
        os.kill(dead, signal.SIGKILL)
        await until(lambda: bool(events(caplog, "lane.not_started")))
    assert "could not be forked: Too many open files" in str(events(caplog, "lane.not_started")[0]["error"])
    await back(pool_of_two)
    assert (pool_of_two.pids[0], pool_of_two.lanes[1].pid) == (fork_server, other)


async def test_a_lane_that_could_not_be_forked_says_why_though_its_socket_closes_first(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fork server has closed its end of the lane's socket before its answer is read."""
    heard = pool_of_two._heard

    def late(message: Message) -> None:
        if "error" in message:
            asyncio.get_running_loop().call_later(0.2, heard, message)
        else:
            heard(message)

    monkeypatch.setattr(pool_of_two, "_heard", late)
    with no_files(pool_of_two.pids[0]):
        os.kill(pool_of_two.pids[1], signal.SIGKILL)
        await until(lambda: bool(events(caplog, "lane.not_started")))
    assert "could not be forked" in str(events(caplog, "lane.not_started")[0]["error"])
    await back(pool_of_two)


async def test_a_fork_server_that_cannot_be_started_is_tried_again_and_again(
    pool_of_two: WorkerPool, caplog: pytest.LogCaptureFixture
) -> None:
    with no_files(os.getpid()):
        os.kill(pool_of_two.pids[0], signal.SIGKILL)
        await until(lambda: len(events(caplog, "fork_server.not_started")) >= 2)
    assert "Too many open files" in str(events(caplog, "fork_server.not_started")[0]["error"])
    await back(pool_of_two)


@pytest.mark.parametrize("trouble", [OSError(errno.ENOMEM, "no memory"), RuntimeError("unforeseen"), ValueError()])
async def test_whatever_goes_wrong_with_a_start_it_is_tried_again(
    pool_of_two: WorkerPool, trouble: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(**_: object) -> None:
        raise trouble

    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "open_unix_connection", fail)
        os.kill(pool_of_two.lanes[0].pid or 0, signal.SIGKILL)
        await until(lambda: len(events(caplog, "lane.not_started")) >= 2)
    await back(pool_of_two)


async def test_a_dead_lane_is_noticed_though_a_child_of_its_model_holds_its_socket(pool_of_two: WorkerPool) -> None:
    first = pool_of_two.lanes[0]
    with pytest.raises(LaneCrashed, match="lane 0 died"):
        async with asyncio.timeout(DEADLINE_S):
            await first.run([item((ORPHAN, 0.0))], threads=1)
    await back(pool_of_two)
    await until(lambda: not strangers(pool_of_two))


async def test_children_of_a_model_end_with_its_lane(pool_of_two: WorkerPool) -> None:
    first = pool_of_two.lanes[0]
    assert doubled((await first.run([item((FORK, 1.0))], threads=1)).outputs[0]) == [-4.0, 2.0]
    assert len(strangers(pool_of_two)) == 1
    await lose(first)
    await until(lambda: not strangers(pool_of_two))
    await back(pool_of_two)


async def test_what_a_model_has_detached_ends_with_its_lane(pool_of_two: WorkerPool) -> None:
    first = pool_of_two.lanes[0]
    await first.run([item((DETACH, 1.0))], threads=1)
    await until(lambda: len(strangers(pool_of_two)) == 1)
    await lose(first)
    await until(lambda: not strangers(pool_of_two))
    await back(pool_of_two)


async def test_what_a_model_has_detached_ends_with_the_fork_server(pool_of_two: WorkerPool) -> None:
    await pool_of_two.lanes[0].run([item((DETACH, 1.0))], threads=1)
    await until(lambda: len(strangers(pool_of_two)) == 1)
    (detached,) = strangers(pool_of_two)
    before = pool_of_two.pids
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: not set(before) & set(pool_of_two.pids))
    await back(pool_of_two)
    assert not alive(detached)


async def test_a_model_whose_fork_comes_back_too_answers_once(pool_of_two: WorkerPool) -> None:
    for _ in range(3):
        result = await pool_of_two.lanes[0].run([item((FORK_TWICE, 1.0))], threads=1)
        assert doubled(result.outputs[0]) == [-6.0, 2.0]
    await back(pool_of_two)
    await until(lambda: not strangers(pool_of_two))


async def test_a_lost_fork_server_is_noticed_though_children_of_models_live_on(pool_of_two: WorkerPool) -> None:
    before = pool_of_two.pids
    for each in pool_of_two.lanes:
        await each.run([item((FORK, 1.0))], threads=1)
    children = strangers(pool_of_two)
    assert len(children) == 2
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: not set(before) & set(pool_of_two.pids))
    await back(pool_of_two)
    assert not [pid for pid in children if alive(pid)]


async def test_a_fork_server_that_hangs_is_replaced_with_its_lanes(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "ANSWER_S", 0.5)
    before = pool_of_two.pids
    os.kill(before[0], signal.SIGUSR1)  # the model hangs the process then
    with pytest.raises(LaneHung, match=r"hung for 0\.2 s"):
        async with asyncio.timeout(DEADLINE_S):
            await pool_of_two.lanes[0].run([item((HANG, 0.0))], threads=1, timeout_s=0.2)
    await until(lambda: bool(events(caplog, "fork_server.hung")))
    await until(lambda: not set(before) & set(pool_of_two.pids))
    await back(pool_of_two)


async def test_a_fork_server_that_is_only_slow_is_waited_for(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "ANSWER_S", 0.1)
    before = pool_of_two.pids
    os.kill(before[0], signal.SIGUSR2)
    with pytest.raises(LaneHung):
        await pool_of_two.lanes[0].run([item((HANG, 0.0))], threads=1, timeout_s=0.1)
    await until(lambda: pool_of_two.pids[1:2] not in ([], before[1:2]))
    await back(pool_of_two)
    assert (pool_of_two.pids[0], pool_of_two.pids[2]) == (before[0], before[2])
    assert events(caplog, "fork_server.starved")


async def test_a_fork_server_that_is_slow_for_good_is_replaced(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_client, "ANSWER_S", 0.1)
    monkeypatch.setattr(fork_client, "STARVED_S", 0.5)
    before = pool_of_two.pids
    os.kill(before[0], signal.SIGUSR2)
    with pytest.raises(LaneHung):
        await pool_of_two.lanes[0].run([item((HANG, 0.0))], threads=1, timeout_s=0.1)
    await until(lambda: bool(events(caplog, "fork_server.hung")))
    await until(lambda: not set(before) & set(pool_of_two.pids))
    await back(pool_of_two)


async def test_a_stopped_lane_goes_on_with_its_batch(pool_of_two: WorkerPool) -> None:
    before = pool_of_two.pids
    os.kill(before[1], signal.SIGSTOP)
    await back(pool_of_two)
    assert pool_of_two.pids == before


async def test_a_stopped_fork_server_goes_on_and_replaces_a_lane(pool_of_two: WorkerPool) -> None:
    before = pool_of_two.pids
    os.kill(before[0], signal.SIGSTOP)
    os.kill(before[1], signal.SIGKILL)
    await until(lambda: pool_of_two.pids[1:2] not in ([], before[1:2]))
    await back(pool_of_two)
    assert (pool_of_two.pids[0], pool_of_two.pids[2]) == (before[0], before[2])


async def test_a_lane_that_hangs_is_not_healthy_before_it_has_ended(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pool_of_two.lanes[0]
    monkeypatch.setattr(first, "_kill", lambda _: None)
    monkeypatch.setattr(lane, "_DEATH_S", 1.0)
    batch = asyncio.create_task(first.run([item((HANG, 0.0))], threads=1, timeout_s=0.2))
    await until(lambda: not first.healthy)
    assert not batch.done()
    with pytest.raises(LaneHung):
        await batch
    monkeypatch.undo()
    await back(pool_of_two)


async def test_a_lane_that_does_not_end_when_it_is_killed_is_given_up(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that waits for a disk: the signal has no effect, and nothing tells of its end."""
    monkeypatch.setattr(lane, "_DEATH_S", 0.2)
    first = pool_of_two.lanes[0]
    with monkeypatch.context() as patched:
        patched.setattr(first, "_kill", lambda _: None)
        with pytest.raises(LaneHung):
            async with asyncio.timeout(DEADLINE_S):
                await first.run([item((HANG, 0.0))], threads=1, timeout_s=0.2)
    await back(pool_of_two)


async def test_an_answer_that_cannot_be_taken_in_costs_the_lane_and_not_its_batch(
    pool_of_two: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    first = pool_of_two.lanes[0]
    dead = first.pid
    with monkeypatch.context() as patched:
        patched.setattr(lane.WorkerLane, "_rows", fail)
        with pytest.raises(LaneCrashed, match="cannot be read"):
            await first.run([item((7.0, 8.0))], threads=1)
    assert "no memory" in str(events(caplog, "lane.answer_unreadable")[0]["error"])
    await back(pool_of_two)
    assert first.pid != dead


@pytest.mark.parametrize(
    ("mood", "limit", "message"),
    [
        (LEAK_FILES, resource.RLIMIT_NOFILE, "Too many open files"),
        (LEAK_THREADS, resource.RLIMIT_AS, "can't start new thread"),
    ],
)
async def test_a_lane_whose_model_has_used_up_files_or_threads_starts_afresh(
    pool_of_two: WorkerPool, mood: float, limit: int, message: str
) -> None:
    first = pool_of_two.lanes[0]
    before = first.pid or 0
    most = 256 if limit == resource.RLIMIT_NOFILE else psutil.Process(before).memory_info().vms + (256 << 20)
    resource.prlimit(before, limit, (most, most))
    failed = (await first.run([item((mood, 0.0))], threads=1)).outputs[0]
    assert message in str(failed)
    await until(lambda: first.healthy and first.pid != before)
    await back(pool_of_two)


async def test_a_lane_whose_model_fails_stays(pool_of_two: WorkerPool) -> None:
    before = pool_of_two.pids
    for _ in range(3):
        assert "a row asked for it" in str((await pool_of_two.lanes[0].run([item((FAIL, 0.0))], threads=1)).outputs[0])
    await back(pool_of_two)
    assert pool_of_two.pids == before


async def test_scaling_can_fail_and_be_asked_for_again(pool_of_two: WorkerPool) -> None:
    with no_files(os.getpid()), pytest.raises(OSError, match="Too many open files"):
        await pool_of_two.scale(3)
    assert len(pool_of_two.lanes) == 2
    await pool_of_two.scale(3)
    await back(pool_of_two)
    await pool_of_two.scale(2)


async def test_a_new_lane_that_hangs_is_tried_again_soon(
    flag: Flag, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "_LEAST_START_S", 0.5)
    monkeypatch.setattr(pool, "_START_FACTOR", 1.0)
    workers = WorkerPool([ModelSpec("m", "python://lane_models:flagged", max_batch=8)])
    try:
        await workers.start(1)
        flag.up()
        os.kill(workers.lanes[0].pid or 0, signal.SIGKILL)
        await until(lambda: bool(events(caplog, "lane.not_started")))
        assert "hangs in its first batch" in str(events(caplog, "lane.not_started")[0]["error"])
        flag.down()
        await back(workers)
    finally:
        await workers.close()


async def test_a_model_that_cannot_be_loaded_again_is_served_once_it_can(
    flag: Flag, caplog: pytest.LogCaptureFixture
) -> None:
    workers = WorkerPool([ModelSpec("m", "python://lane_models:flagged", max_batch=8)])
    try:
        await workers.start(1)
        flag.up()
        os.kill(workers.pids[0], signal.SIGKILL)
        await until(lambda: len(events(caplog, "fork_server.not_started")) >= 2)
        assert "the flag is up" in str(events(caplog, "fork_server.not_started")[0]["error"])
        flag.down()
        await back(workers)
    finally:
        await workers.close()


def strangers(workers: WorkerPool) -> list[int]:
    """Descendants of the fork server that are no lane, and live: it inherits what models detach."""
    family: set[int] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        family = {child.pid for child in psutil.Process(workers.pids[0]).children(recursive=True)}
    return [pid for pid in family - set(workers.pids) if alive(pid)]


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
