"""A real server under a real CPU limit: it never runs more threads than the limit allows, whoever changes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_process import ServerProcess, eventually

from sponge_system.cgroup import Cgroup, CgroupError

pytestmark = pytest.mark.torch

MODEL = ("--model", "m=python://commanded_model:factory", "--max-batch", "1", "--slo-ms", "60000")
SIZES = ("--cores", "2", "--min-cores", "500m", "--step-cores", "500m")


def test_the_quota_is_followed_whoever_changes_it(tmp_path: Path) -> None:
    name = f"sponge-server-test-{os.getpid()}"
    if os.geteuid() != 0:
        with pytest.raises(CgroupError, match="root"):
            Cgroup.create(name, 0.5)
        return
    group = Cgroup.create(name, 2.0)
    try:
        server = ServerProcess(tmp_path, *MODEL, *SIZES, cgroup=group.path)
        try:
            _move(server, group)
            with ThreadPoolExecutor(8) as pool:
                _follow(server, group, pool)
        finally:
            assert server.stop() == 0
    finally:
        group.remove()


def _move(server: ServerProcess, group: Cgroup) -> None:
    """Out of the cgroup that it started in, and back."""
    group.set_quota_milli(500)
    eventually(lambda: server.ask("/control/v1/state").json["cores_milli"] == 500)
    (group.path.parent / "cgroup.procs").write_text(str(server.process.pid))
    eventually(lambda: server.ask("/control/v1/state").json["cores_milli"] == 2000)
    group.set_quota_milli(2000)
    group.add_pid(server.process.pid)


def _follow(server: ServerProcess, group: Cgroup, pool: ThreadPoolExecutor) -> None:
    def state() -> dict[str, Any]:
        snapshot: dict[str, Any] = server.ask("/control/v1/state").json
        return snapshot

    def settled(**expected: int) -> Callable[[], bool]:
        return lambda: expected.items() <= state().items()

    eventually(settled(cpu_quota_milli=2000, cores_milli=2000, thread_budget=2))
    running = [pool.submit(server.command, 1500) for _ in range(4)]
    eventually(settled(threads_running=2))
    group.set_quota_milli(500)
    eventually(settled(cpu_quota_milli=500, cores_milli=500, thread_budget=1))
    eventually(settled(queue_length=1, threads_running=1))
    group.set_quota_milli(1500)
    eventually(settled(cores_milli=1500, thread_budget=2, threads_running=2))
    assert all(reply.result().status == 200 for reply in running)
    # An applied size below the quota counts; one above it does not.
    assert (
        server.ask("/control/v1/apply", {"version": 1, "cores_milli": 1000, "batch_cap": 1}).json["thread_budget"] == 1
    )
    assert server.ask("/control/v1/apply", {"version": 2, "cores_milli": 2000, "batch_cap": 1}).status == 200
    assert state()["cores_milli"] == 1500
    assert server.metric("sponge_cpu_quota_cores") == 1.5
    group.set_quota_milli(None)
    eventually(settled(cores_milli=2000))
    assert state()["cpu_quota_milli"] is None
