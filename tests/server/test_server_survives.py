"""A real server under real faults: every request gets an answer, and full capacity comes back."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
from commanded_model import DETACH, EAT_SHARED, ORPHAN
from grpc_health.v1 import health_pb2, health_pb2_grpc
from lane_models import FLAG
from memory_cgroup import memory_cgroup, pids_cgroup
from server_process import ServerProcess, eventually
from steady_requests import SteadyRequests

from sponge_server.lifecycle import READY_WITHOUT_S
from sponge_server.protos import inference_pb2 as pb
from sponge_server.workers.fork_client import _WATCH_POLL_S, ANSWER_S
from sponge_server.workers.fork_server import NICENESS

pytestmark = pytest.mark.torch

MODEL = ("--model", "m=python://commanded_model:factory", "--max-batch", "2", "--slo-ms", "30000", "--cores", "2")
BACK_S = 60.0  # a free machine needs at most 10 s


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path, *MODEL)
    yield server
    assert server.stop() == 0


def fork_server(server: ServerProcess) -> psutil.Process:
    (found,) = psutil.Process(server.process.pid).children()
    return found


def server_nice(server: ServerProcess) -> int:
    return psutil.Process(server.process.pid).nice()


def lanes(server: ServerProcess) -> list[psutil.Process]:
    return fork_server(server).children()


def back(server: ServerProcess, since: float) -> None:
    """Waits for full capacity, and uses it. What was lost must have ended. `pytest -s` prints how long it took."""

    def full() -> bool:
        behind = psutil.Process(server.process.pid).children(recursive=True)
        healthy, wanted = server.metric("sponge_lanes_healthy"), server.metric("sponge_lanes")
        return len(behind) == 3 and healthy == wanted == 2 and server.ask("/readyz").status == 200

    eventually(full, BACK_S)
    print(f"full capacity after {time.monotonic() - since:.1f} s")
    assert {server.command(1).status for _ in range(4)} == {200}


@contextlib.contextmanager
def _no_more_files(server: ServerProcess) -> Iterator[None]:
    pid = server.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, hard))
    with contextlib.ExitStack() as stack:
        place = urlsplit(server.data)
        for _ in range(100):  # what is free below the limit
            held = stack.enter_context(socket.socket())
            held.setblocking(False)
            held.connect_ex((place.hostname, place.port))
        eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) >= used)
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_run_out(server: ServerProcess) -> None:
    with SteadyRequests(server) as steady:
        with _no_more_files(server):
            lanes(server)[0].kill()
            steady.go_on()
            eventually(lambda: "lane.not_started" in server.errors.read_text(), BACK_S)
        back(server, time.monotonic())
        steady.go_on()
    assert not steady.lost
    assert "Too many open files" in server.errors.read_text()


def test_processes_run_out(tmp_path: Path) -> None:
    with pids_cgroup() as group:
        server = ServerProcess(tmp_path, *MODEL, cgroup=group)
        try:
            with SteadyRequests(server) as steady:
                (group / "pids.max").write_text("1")
                for lane in lanes(server):
                    lane.kill()
                eventually(lambda: "could not be forked" in server.errors.read_text(), BACK_S)
                eventually(lambda: server.ask("/readyz").status == 503, BACK_S)
                assert server.ask("/readyz").json == {"ready": False, "phase": "lanes-lost"}
                assert server.ask("/healthz").status == 200
                refused = server.command(1)
                assert (refused.status, "every lane was lost" in refused.json["detail"]) == (503, True)
                (group / "pids.max").write_text("max")
                back(server, time.monotonic())
                steady.go_on()
            assert not steady.lost
        finally:
            assert server.stop() == 0


def test_memory_runs_out(tmp_path: Path) -> None:
    with memory_cgroup(1 << 30) as group:
        server = ServerProcess(tmp_path, *MODEL, cgroup=group)
        try:
            with SteadyRequests(server) as steady:
                began = time.monotonic()
                assert server.command(EAT_SHARED).status == 500
                back(server, began)
                steady.go_on()
            assert not steady.lost
        finally:
            assert server.stop() == 0


def _hang_a_lane(server: ServerProcess) -> list[psutil.Process]:
    before = lanes(server)
    assert server.command(3_600_000, x_sponge_slo_ms="5002").status == 500  # no time is left to try it again
    return [lane for lane in before if not lane.is_running()]


def _kill_the_fork_server(server: ServerProcess) -> list[psutil.Process]:
    lost = [*lanes(server), fork_server(server)]
    lost[-1].kill()
    return lost


def _hang_the_fork_server(server: ServerProcess) -> list[psutil.Process]:
    lost = [fork_server(server), lanes(server)[0]]
    lost[0].send_signal(signal.SIGUSR1)  # the model hangs the process then
    lost[1].kill()
    return lost


def test_a_server_without_its_models_is_not_ready_within_ten_seconds() -> None:
    """Until it says so, it serves with a part of its lanes, or with none."""
    assert ANSWER_S + READY_WITHOUT_S < 10
    assert ANSWER_S > 2 * _WATCH_POLL_S  # a process that was stopped goes on first


def _leave_children(server: ServerProcess) -> list[psutil.Process]:
    before = lanes(server)
    assert server.command(ORPHAN).status == 500
    return [lane for lane in before if not lane.is_running()]


def _leave_detached_children(server: ServerProcess) -> list[psutil.Process]:
    before = lanes(server)
    assert server.command(DETACH).status == 500
    return [lane for lane in before if not lane.is_running()]


def _stop_everything_behind_the_ports(server: ServerProcess) -> list[psutil.Process]:
    for process in [fork_server(server), *lanes(server)]:
        process.suspend()
    return []


@pytest.mark.parametrize(
    "fault",
    [
        _hang_a_lane,
        _kill_the_fork_server,
        _hang_the_fork_server,
        _leave_children,
        _leave_detached_children,
        _stop_everything_behind_the_ports,
    ],
)
def test_lanes_are_lost(server: ServerProcess, fault: Callable[[ServerProcess], list[psutil.Process]]) -> None:
    with SteadyRequests(server) as steady:
        began = time.monotonic()
        lost = fault(server)
        eventually(lambda: not any(process.is_running() for process in lost), BACK_S)
        back(server, began)
        steady.go_on()
    assert fork_server(server).nice() == min(19, server_nice(server) + NICENESS)
    assert not steady.lost
    assert set(steady.answers) <= {200, 500, 503}


def test_a_server_whose_lanes_do_not_come_back_says_so_until_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "flag"
    monkeypatch.setenv(FLAG, str(flag))
    options = ("--model", "m=python://lane_models:flagged", "--max-batch", "2", "--cores", "1", "--restart-s", "5")
    server = ServerProcess(tmp_path, *options)
    try:
        flag.touch()
        fork_server(server).kill()
        eventually(lambda: server.ask("/readyz").status == 503, BACK_S)
        eventually(lambda: server.ask("/healthz").status == 503, BACK_S)
        assert server.ask("/healthz").json == {"alive": False}
        assert server.get("/v2/health/live").status == 503
        assert server.get("/v2/health/ready").status == 503
        assert says_over_grpc(server) == (False, False, health_pb2.HealthCheckResponse.NOT_SERVING)
        eventually(lambda: "the flag is up" in server.errors.read_text(), BACK_S)
        flag.unlink()
        eventually(lambda: server.ask("/readyz").status == 200, BACK_S)
        assert server.ask("/healthz").status == 200
        assert server.get("/v2/health/live").status == 200
        assert says_over_grpc(server) == (True, True, health_pb2.HealthCheckResponse.SERVING)
        log = server.errors.read_text()
        for expected in ("lanes.lost", "lanes.given_up", "lanes.back"):
            assert expected in log
    finally:
        assert server.stop() == 0


def says_over_grpc(server: ServerProcess) -> tuple[bool, bool, int]:
    """Whether it lives, whether it is ready, and the status of the health service."""
    live = pb.ServerLiveResponse.FromString(server.call("ServerLive", b"")).live
    ready = pb.ServerReadyResponse.FromString(server.call("ServerReady", b"")).ready
    with grpc.insecure_channel(server.grpc) as channel:
        return live, ready, health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("never_loaded", ("--load-s", "3"), "model m was not loaded within 3 s: it hangs"),
        ("never_done", ("--example-s", "3"), "takes more than 3 s for an example input: it hangs"),
        ("slow_for_many", ("--example-s", "3"), "did not finish an example batch of 4 within 3 s: it hangs"),
        ("choosy", (), "model m fails on an example batch of 4: the model failed on this request: too many for me"),
        ("squeezed", (), "its first dimension must be the batch, which squeeze() without a dimension drops"),
    ],
)
def test_a_start_that_cannot_succeed_names_the_cause(model: str, options: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "sponge_cli.main", "serve", "--http-port", "0", "--control-port", "0"]
    command += ["--model", f"m=python://lane_models:{model}", "--max-batch", "4", "--cores", "1", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"PYTHONPATH": _path()}
    )
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "MiB" not in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def _path() -> str:
    return os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
