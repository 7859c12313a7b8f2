"""Cores under a load that varies: the fewest fixed ones that suffice, and Sponge resized live as the operator would.

The load is the 4G mix with a rate that rises and falls. A peer is tried at fixed sizes, from large to small, until it
fails the target; Sponge starts at the largest and is sized by the operator's control loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.campaign import Plan, capacity_of, tuned
from bench.serving.ledger import Ledger
from bench.serving.measure import Timing, open_loop, warm_up
from bench.serving.schedule import MIXES, varying_shots
from bench.serving.servers import Server, serving
from bench.serving.systems import Knobs, System
from bench.serving.systems.sponge import ResizableSponge
from bench.serving.workloads import Served
from sponge_client.schedule import Shot
from sponge_cluster.layout import free_port
from sponge_core.control_api import SizeRange
from sponge_operator.autoscale.cgroup_target import CgroupTarget
from sponge_operator.autoscale.control_loop import ControlLoop, Standalone
from sponge_operator.autoscale.recommender import SizingSpec
from sponge_operator.clients.server import ControlClient
from sponge_workload.files import load_bandwidth

__all__ = ["CORES_MIX", "CORES_RUN_S", "SIZES", "TARGET", "measure_cores"]

CORES_MIX = "4g"
RATES = (0.15, 0.35, 0.6, 0.8, 0.5, 0.25, 0.1, 0.4)
"""Of the capacity at the campaign's cores, one after the other."""

STEP_S = 6.0
WARMUP_S = 2.0
CORES_RUN_S = 85.0
"""About what one run takes."""

TARGET = 0.99
SIZES = (1.5, 1.25, 1.0, 0.75, 0.5)
LEAST_MILLI, STEP_MILLI = 250, 125
SEED = 1


def measure_cores(ledger: Ledger, plan: Plan, folder: Path) -> Iterator[tuple[str, float | None, Mapping[str, Any]]]:
    """Yields (system, fixed cores or None where resized live, result) of every run that the campaign lacks."""
    capacity = float(capacity_of(ledger, plan)["rows_per_s"])
    rates = [round(share * capacity, 1) for share in RATES]
    uplink = load_bandwidth("4g", 1, os.environ)
    assert uplink is not None
    shots = varying_shots(MIXES[CORES_MIX], rates, STEP_S, SEED, uplink, len(plan.served.workload.bodies()))
    timing = Timing(STEP_S * len(rates), WARMUP_S, plan.timing.hang_up_s)
    for name in plan.systems:
        for cores in (None, *SIZES) if name == "sponge" else SIZES:
            knobs = _knobs(ledger, plan, name, cores)
            params = {
                **plan.runs,
                "system": name,
                "version": plan.system(name).version,
                "knobs": dict(knobs),
                "cores": cores,
                "rates_rps": rates,
                "step_s": STEP_S,
                "seed": SEED,
                "target": TARGET,
            }
            run = ledger.find("cores", params)
            if run is None:
                log = folder / f"{name}-cores.log"
                if cores is None:
                    result = _resized(plan.served, max(SIZES), shots, timing, log)
                else:
                    result = _fixed(plan.system(name), knobs, cores, shots, timing, log)
                run = ledger.add("cores", params, result)
                yield name, cores, run["result"]
            if cores is not None and run["result"]["attainment"] < TARGET:
                break  # fewer cores would not do better


def _knobs(ledger: Ledger, plan: Plan, name: str, cores: float | None) -> Knobs:
    """As tuned near saturation; where the thread count of that would not fit, the system's first guess for the size."""
    if cores is None or math.ceil(cores) == math.ceil(plan.cores):
        return tuned(ledger, plan, name, CORES_MIX, 0.9)
    return plan.system(name).candidates(cores)[0]


def _fixed(
    system: System, knobs: Knobs, cores: float, shots: Sequence[Shot], timing: Timing, log: Path
) -> dict[str, Any]:
    with serving(system, knobs, cores, log) as server:
        warm_up(server)
        return {**open_loop(server, MIXES[CORES_MIX], shots, timing), "mean_cores": cores, "resizes": 0}


def _resized(served: Served, most: float, shots: Sequence[Shot], timing: Timing, log: Path) -> dict[str, Any]:
    sizes = SizeRange(min_milli=LEAST_MILLI, max_milli=round(most * 1000), step_milli=STEP_MILLI)
    with tempfile.TemporaryDirectory() as folder:
        token_file = Path(folder) / "token"
        token_file.write_text(secrets.token_hex(16))
        system = ResizableSponge(served, free_port(), token_file, sizes)
        with serving(system, {}, most, log) as server:
            warm_up(server)
            with _controlled(server, system.control_port, token_file.read_text(), sizes) as quota:
                began = time.monotonic()
                result = open_loop(server, MIXES[CORES_MIX], shots, timing)
                # The sender needs a moment to start, and ends with the last answer; the schedule lies between.
                ended = time.monotonic()
                return {**result, "mean_cores": round(quota.mean_cores(began, ended), 3), "resizes": quota.changes}


class _Quota:
    """The server's CPU quota, with its sizes over time."""

    def __init__(self, server: Server, milli: int) -> None:
        self._server = server
        self._steps = [(time.monotonic(), milli)]

    @property
    def changes(self) -> int:
        return len(self._steps) - 1

    def quota_milli(self) -> int | None:
        return self._server.cgroup.quota_milli()

    def set_quota_milli(self, milli: int | None) -> None:
        assert milli is not None
        self._server.cgroup.set_quota_milli(milli)
        self._steps.append((time.monotonic(), milli))

    def mean_cores(self, began: float, ended: float) -> float:
        ends = [at for at, _ in self._steps[1:]] + [ended]
        spent = sum(
            milli * max(0.0, min(end, ended) - max(at, began))
            for (at, milli), end in zip(self._steps, ends, strict=True)
        )
        return spent / (ended - began) / 1000


@contextlib.contextmanager
def _controlled(server: Server, control_port: int, token: str, sizes: SizeRange) -> Iterator[_Quota]:
    """Runs the operator's control loop beside the measurement, on an event loop and thread of its own."""
    quota = _Quota(server, sizes.max_milli)
    target = CgroupTarget(f"http://127.0.0.1:{control_port}", token, sizes.max_milli, quota)
    loop = asyncio.new_event_loop()

    async def control() -> None:
        async with ControlClient() as client:
            await ControlLoop(target, client, Standalone(SizingSpec(sizes)), loop.time).run()

    task = loop.create_task(control())

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield quota
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()
