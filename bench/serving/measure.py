"""Single measurements: one schedule against one running server, a closed loop, the yardstick.

Each runs in processes of its own. This module starts them, waits for them and summarises their output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.serving.outcomes import Answer, summarise
from bench.serving.schedule import Mix, fingerprint
from bench.serving.sender import ClosedLoop, Job
from bench.serving.servers import Server, cgroup_environment, limited
from bench.serving.systems.interface import REPOSITORY
from bench.serving.workloads import Served
from sponge_client.schedule import Shot
from sponge_core.errors import SpongeError

__all__ = ["MAX_LAG_MS", "Timing", "bare", "closed_loop", "open_loop", "send", "settle", "warm_up"]

MAX_LAG_MS = 5.0
"""Sender lag (99th percentile) above which a run is void."""

PATIENT_S = 10.0
"""SLO of requests that must not be refused: warm-up, latency floors, saturation."""

SETTLED_S = 0.5
SETTLE_WITHIN_S = 15.0
WARM_UP_S = 3.0
BARE_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one open-loop run: `duration_s` of sending, of which `warmup_s` are not counted; clients hang up `hang_up_s`
    after their deadline."""

    duration_s: float
    warmup_s: float
    hang_up_s: float


def open_loop(server: Server, mix: Mix, shots: Sequence[Shot], timing: Timing) -> dict[str, Any]:
    """The figures of one schedule against a server, as plain JSON. A run with a late sender is repeated once.

    `void` is true when it was late both times.
    """
    for _ in range(2):
        throttled, cpu = server.cgroup.cpu_stat(), server.cpu_s()
        answers = send(_job(server, timing.hang_up_s, tuple(shots)))
        used = {
            "cpu_s": round(server.cpu_s() - cpu, 3),
            "throttled_s": round(server.cgroup.cpu_stat().throttled_s - throttled.throttled_s, 3),
        }
        figures = summarise(answers, server.system.refusals, mix, timing.warmup_s, timing.duration_s)
        void = (figures["lag_p99_ms"] or 0.0) > MAX_LAG_MS
        if not void:
            break
        settle(server)
    return {**figures, **used, "void": void, "schedule": fingerprint(shots)}


def closed_loop(server: Server, clients: int, duration_s: float, think_s: float = 0.0) -> dict[str, Any]:
    """Latencies and throughput of a closed loop of patient clients."""
    closed = ClosedLoop(clients, duration_s, PATIENT_S, think_s)
    answers = send(_job(server, PATIENT_S, closed=closed))
    right = [answer for answer in answers if answer.right]
    if not right:
        raise SpongeError(f"{server.system.name} gave no right answer to {len(answers)} requests (log: {server.log})")
    ended = max(answer.at_s + answer.latency_s for answer in right)
    latencies = [answer.latency_s for answer in right]
    p50, p99 = (round(float(value) * 1000, 2) for value in np.percentile(latencies, (50, 99)))
    return {
        "sent": len(answers),
        "failed": len(answers) - len(right),
        "throughput_rps": round(len(right) / ended, 2),
        "p50_ms": p50,
        "p99_ms": p99,
    }


def warm_up(server: Server) -> None:
    """Some seconds of load, so that every lane and batch size has run. Raises SpongeError when nothing is answered
    rightly."""
    closed_loop(server, 8, WARM_UP_S)


def settle(server: Server) -> bool:
    """Waits until the server's backlog is empty. False when it is not within a quarter of a minute."""
    probe = _job(server, 0.0, closed=ClosedLoop(1, 0.2, SETTLE_WITHIN_S))
    return any(all(a.right and a.latency_s < SETTLED_S for a in send(probe)) for _ in range(3))


def send(job: Job) -> list[Answer]:
    """Runs the load generator. Raises SpongeError when it fails."""
    done = subprocess.run(
        (sys.executable, "-m", "bench.serving.sender"),
        input=job.as_json(),
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SpongeError(f"the load generator failed: {done.stderr.strip()[-600:]}")
    return [Answer(**row) for row in json.loads(done.stdout)]


def _job(server: Server, hang_up_s: float, shots: tuple[Shot, ...] = (), closed: ClosedLoop | None = None) -> Job:
    system = server.system
    return Job(system.workload.name, system.name, server.knobs, server.port, hang_up_s, shots, closed)


def bare(
    served: Served, cores: float, processes: int, threads: int, batches: Sequence[int], seconds: float
) -> list[dict[str, Any]]:
    """The figures of `bench.serving.bare`, one per batch size, in a cgroup of `cores`. Raises SpongeError."""
    options = {"--processes": processes, "--threads": threads, "--batches": ",".join(map(str, batches))}
    options |= {"--workload": served.workload.name, "--runtime": served.runtime}
    command = [sys.executable, "-m", "bench.serving.bare", f"--seconds={seconds}"]
    command += [f"{name}={value}" for name, value in options.items()]
    with limited(cores) as cgroup:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=cgroup_environment({}),
        )
        cgroup.add_pid(process.pid)
        try:
            out, err = process.communicate(timeout=BARE_START_S + 3 * seconds * len(batches))
        except subprocess.TimeoutExpired:
            process.kill()
            raise SpongeError("the bare loop did not end in time") from None
    if process.returncode != 0:
        raise SpongeError(f"the yardstick failed: {err.strip()[-600:]}")
    return [json.loads(line) for line in out.splitlines()]
