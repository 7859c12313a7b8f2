"""A real server whose model misbehaves: only the request at fault gets an error, and the server goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_DATA, prlimit
from typing import Any

import psutil
import pytest
from commanded_model import CRASH, EAT, EAT_SHARED, FAIL, LEAVE, NAN, SEGFAULT, SQUEEZE
from memory_cgroup import memory_cgroup
from server_process import ServerProcess, eventually, oom_score

from sponge_system.cgroup import read_oom_kills
from sponge_system.oom_score import FORK_SERVER, LANE

pytestmark = pytest.mark.torch

OPTIONS = ("--model", "m=python://commanded_model:factory", "--max-batch", "4", "--slo-ms", "30000", "--cores", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("m"), *OPTIONS)
    yield server
    assert server.stop() == 0


def state(server: ServerProcess) -> dict[str, Any]:
    snapshot: dict[str, Any] = server.ask("/control/v1/state").json
    return snapshot


def batch_with(server: ServerProcess, command: int, status: int = 500) -> str:
    """Sends `command` in one batch with three well-behaved requests, whose answers are checked; what it was told."""
    with ThreadPoolExecutor(5) as pool:
        blocker = pool.submit(server.command, 400)
        eventually(lambda: state(server)["threads_running"] == 1)
        good = [pool.submit(server.command, number) for number in (1, 2)]
        bad = pool.submit(server.command, command)
        good.append(pool.submit(server.command, 3))
        eventually(lambda: state(server)["queue_length"] == 4 or blocker.done())
        assert blocker.result().status == 200
        assert [reply.result().json["outputs"][0]["data"] for reply in good] == [[1], [2], [3]]
        assert bad.result().status == status
        assert server.command(7).json["outputs"][0]["data"] == [7]
        return str(bad.result().json["detail"])


@pytest.mark.parametrize(
    ("command", "crashes", "told"),
    [
        (FAIL, 0, "told to fail"),
        (SQUEEZE, 0, "its first dimension must be the batch"),
        (LEAVE, 0, "tried to exit the process on this request (code told to leave)"),
        (CRASH, 2, "lost twice with this request"),
        (SEGFAULT, 2, "lost twice with this request"),
    ],
)
def test_a_request_that_fails_fails_alone(server: ServerProcess, command: int, crashes: int, told: str) -> None:
    before = server.metric('sponge_lane_crashes_total{model="m"}')
    assert told in batch_with(server, command)
    assert server.metric('sponge_lane_crashes_total{model="m"}') == before + crashes


def test_a_nan_for_one_finite_input_only_is_an_error_of_that_request(server: ServerProcess) -> None:
    told = batch_with(server, NAN, 422)
    assert told == (
        "the model gave NaN or Inf in its output 'output' for this request, but not for others: check the scale of its"
        " input"
    )


def test_a_model_that_only_gives_nan_has_failed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, *OPTIONS)
    assert [server.command(NAN).status for _ in range(2)] == [500, 500]
    assert (server.command(7).status, server.command(NAN).status) == (200, 422)
    assert server.stop() == 0


def test_a_hung_lane_is_replaced_and_its_request_tried_once_more(server: ServerProcess) -> None:
    """An hour of work is killed twice after the watchdog's five seconds; nobody else notices."""
    before = server.metric('sponge_lane_crashes_total{model="m"}')
    reply = server.command(3_600_000, x_sponge_slo_ms="60000")
    assert (reply.status, "hung for 5 s" in reply.json["detail"]) == (500, True)
    assert server.metric('sponge_lane_crashes_total{model="m"}') == before + 2
    assert server.command(7).json["outputs"][0]["data"] == [7]


def test_a_request_that_needs_more_memory_than_is_left_fails_alone(tmp_path: Path) -> None:
    """The kernel ends nothing for it: in a pod, it may end all of the container."""
    with memory_cgroup(1 << 30) as group:
        server = ServerProcess(tmp_path, *OPTIONS, cgroup=group)
        try:
            pids = set((group / "cgroup.procs").read_text().split())
            lane = max(map(int, pids), key=oom_score)
            eventually(lambda: prlimit(lane, RLIMIT_DATA)[0] != RLIM_INFINITY)
            assert all(prlimit(int(pid), RLIMIT_DATA)[0] == RLIM_INFINITY for pid in pids - {str(lane)})
            assert "allocate memory" in batch_with(server, EAT)
            assert server.metric('sponge_lane_crashes_total{model="m"}') == 0
            assert set((group / "cgroup.procs").read_text().split()) == pids
            assert read_oom_kills(group) == 0
        finally:
            assert server.stop() == 0


def test_what_costs_least_to_lose_is_what_the_kernel_kills_first(server: ServerProcess) -> None:
    server_process = psutil.Process(server.process.pid)
    (fork_server,) = server_process.children()
    (lane,) = fork_server.children()
    base = oom_score(server_process.pid)
    assert oom_score(fork_server.pid) == min(1000, base + FORK_SERVER)
    assert oom_score(lane.pid) == min(1000, base + LANE)


def test_a_lane_that_the_kernel_kills_for_its_memory_is_replaced(tmp_path: Path) -> None:
    """Memory that processes share is not refused.

    It is free only once the lane has ended. If that takes long on a busy machine, the kernel kills the next process
    meanwhile, the fork server; never the server, so nothing that it has accepted is lost.
    """
    with memory_cgroup(1 << 30) as group:
        server = ServerProcess(tmp_path, *OPTIONS, cgroup=group)
        try:
            assert "lost twice" in batch_with(server, EAT_SHARED)
            assert server.metric('sponge_lane_crashes_total{model="m"}') == 2
            assert read_oom_kills(group) >= 2
        finally:
            assert server.stop() == 0


def test_the_batch_is_only_as_large_as_the_memory_limit_allows(tmp_path: Path) -> None:
    """32 MiB a row: a batch of 64 would take 2 GiB. What fits is found without a lane being killed for it."""
    options = ("--model", "m=python://commanded_model:greedy", "--max-batch", "64", "--slo-ms", "30000", "--cores", "1")
    with memory_cgroup(1 << 30) as group:
        server = ServerProcess(tmp_path, *options, cgroup=group)
        try:
            cap = state(server)["batch_cap"]
            assert 2 <= cap < 32
            need = sum(
                factor * server.metric(f'sponge_memory_bytes{{part="{part}"}}')
                for part, factor in (("base", 1), ("lane", 1), ("item", cap))
            )
            assert 0.5 * (1 << 30) < need < 1 << 30
            assert server.metric('sponge_memory_bytes{part="item"}') > 30 << 20
            assert server.metric("sponge_memory_limit_bytes") == 1 << 30
            with ThreadPoolExecutor(cap) as pool:
                replies = list(pool.map(server.command, range(cap)))
            assert {reply.status for reply in replies} == {200}
            assert server.metric('sponge_lane_crashes_total{model="m"}') == 0
            assert "memory.limits_the_server" in server.errors.read_text()
            assert read_oom_kills(group) == 0
        finally:
            assert server.stop() == 0


@pytest.mark.parametrize(("model", "limit_mib", "killed"), [("factory", 200, True), ("glutton", 900, False)])
def test_a_memory_limit_below_one_batch_is_refused_at_startup(
    tmp_path: Path, model: str, limit_mib: int, killed: bool
) -> None:
    """A model is refused what does not fit before the kernel must end a process; the libraries are not guarded."""
    options = ("--model", f"m=python://commanded_model:{model}", "--max-batch", "1", "--cores", "1")
    with memory_cgroup(limit_mib << 20) as group:
        with pytest.raises(AssertionError) as failed:
            ServerProcess(tmp_path, *options, cgroup=group)
        assert (read_oom_kills(group) > 0) is killed
    assert f"the memory limit of {limit_mib} MiB is too small" in str(failed.value)
    assert "raise the limit" in str(failed.value)
