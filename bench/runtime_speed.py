"""Measures ResNet-18 in each runtime: lanes of the server against the runtime alone in a loop, in turns.

A shape is lanes x threads x batch. In every round each runtime runs each shape twice for the same time: on lanes, with
the server's messages and copies, and in as many processes of a bare loop, as the runtime's own documentation writes it.

    python -m bench.runtime_speed --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.progress import track

from bench.options import at_least_one, positive
from bench.results import new_table
from sponge_server.workers.examples import example_item
from sponge_server.workers.fork_server import ENVIRONMENT
from sponge_server.workers.interface import ItemError, ModelSpec
from sponge_server.workers.lane import WorkerLane
from sponge_server.workers.pool import WorkerPool
from sponge_system.process_memory import private_bytes

MODEL = "torchvision://resnet18?weights=none"
RUNTIMES = ("torch", "onnx", "openvino")
CORES = 2
SHAPES = ((2, 1, 1), (1, 2, 1), (2, 1, 4), (1, 2, 4), (2, 1, 8), (1, 2, 8))
"""As (lanes, threads, batch): all cores in use."""

BARE = """
import sys, time
import numpy as np
runtime, path, dtype = sys.argv[1:]
ready = {}
def made(threads):
    if runtime == "torch":
        import torch
        from sponge_server.models.source import load
        torch.set_num_threads(threads)
        module = ready.setdefault("module", None) or load(path).forward
        ready["module"] = module
        def run(rows):
            with torch.inference_mode():
                return module(torch.from_numpy(rows).contiguous(memory_format=torch.channels_last)).numpy()
        return run
    if runtime == "onnx":
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda rows: session.run(None, {session.get_inputs()[0].name: rows})[0]
    import openvino
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": dtype}
    compiled = openvino.Core().compile_model(path, "CPU", hints | {"ENABLE_CPU_PINNING": False})
    return lambda rows: compiled([rows])[0]
for line in sys.stdin:
    threads, batch, seconds = line.split()
    if threads not in ready or runtime == "torch":
        ready[threads] = made(int(threads))
    rows = np.random.default_rng(0).random((int(batch), 3, 224, 224), dtype=np.float32)
    ready[threads](rows)
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < float(seconds):
        ready[threads](rows)
        done += int(batch)
    print(done / took, flush=True)
"""


class Bare:
    """Processes that run one runtime in a loop."""

    def __init__(self, runtime: str, path: str) -> None:
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if runtime != "torch" else ENVIRONMENT)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-c", BARE, runtime, path, "f32"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(CORES)
        ]

    def rows_per_s(self, processes: int, threads: int, batch: int, seconds: float) -> float:
        """Of so many processes together."""
        used = self._processes[:processes]
        for process in used:
            assert process.stdin is not None
            process.stdin.write(f"{threads} {batch} {seconds}\n")
            process.stdin.flush()
        return sum(float(process.stdout.readline()) for process in used if process.stdout is not None)

    def close(self) -> None:
        for process in self._processes:
            process.communicate()


async def lane_rows_per_s(pool: WorkerPool, model: int, lanes: int, threads: int, batch: int, seconds: float) -> float:
    """Of so many lanes together, each with its next batch as soon as the last is answered."""
    items = [example_item(pool.models[model], 1)] * batch

    async def one(lane: WorkerLane) -> float:
        await lane.run(items, threads, model=model)
        began, done = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds:
            result = await lane.run(items, threads, model=model)
            failed = next((outputs for outputs in result.outputs if isinstance(outputs, ItemError)), None)
            if failed is not None:
                raise failed
            done += batch
        return done / took

    return sum(await asyncio.gather(*(one(lane) for lane in pool.lanes[:lanes])))


def converted(runtime: str) -> str:
    """What the bare loop runs: the source for torch, else the file that the server has converted."""
    if runtime == "torch":
        return MODEL
    text = "import sys\nfrom sponge_server.models.source import load\nprint(load(sys.argv[1]).forward.path)"
    command = [sys.executable, "-c", text, f"{MODEL}&runtime={runtime}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)
    return done.stdout.splitlines()[-1]


async def measure(runtimes: Sequence[str], rounds: int, seconds: float) -> dict[str, object]:
    """Rows a second by runtime and shape, in lanes and bare, and a lane's memory by number of thread counts."""
    lanes: dict[tuple[str, tuple[int, int, int]], list[float]] = {}
    bare: dict[tuple[str, tuple[int, int, int]], list[float]] = {}
    memory: dict[str, list[int]] = {}
    loops = {runtime: Bare(runtime, await asyncio.to_thread(converted, runtime)) for runtime in runtimes}
    pools = {runtime: WorkerPool([ModelSpec(runtime, f"{MODEL}&runtime={runtime}", 8)]) for runtime in runtimes}
    try:
        for runtime, pool in pools.items():
            await pool.start(CORES)
            item = example_item(pool.models[0], 1)
            for threads in range(1, 5):
                await pool.lanes[1].run([item], threads)
                memory.setdefault(runtime, []).append((private_bytes(pool.pids[2]) or 0) >> 20)
        for number in track(range(rounds), "measuring", console=Console(stderr=True), transient=True):
            for runtime, pool in pools.items():
                for shape in SHAPES:
                    turns = (True, False) if number % 2 else (False, True)
                    for on_lanes in turns:
                        if on_lanes:
                            found = await lane_rows_per_s(pool, 0, *shape, seconds)
                            lanes.setdefault((runtime, shape), []).append(found)
                        else:
                            found = await asyncio.to_thread(loops[runtime].rows_per_s, *shape, seconds)
                            bare.setdefault((runtime, shape), []).append(found)
    finally:
        for loop in loops.values():
            loop.close()
        for pool in pools.values():
            await pool.close()
    return {
        runtime: {
            "shapes": {
                "x".join(map(str, shape)): {
                    "lanes_rows_per_s": round(median(lanes[runtime, shape]), 2),
                    "bare_rows_per_s": round(median(bare[runtime, shape]), 2),
                    "ratio": round(
                        median(a / b for a, b in zip(lanes[runtime, shape], bare[runtime, shape], strict=True)), 4
                    ),
                }
                for shape in SHAPES
            },
            "lane_mib_by_thread_counts": memory[runtime],
        }
        for runtime in runtimes
    }


def _ratio(lanes: Sequence[float], bare: Sequence[float]) -> float:
    """The median over rounds: both ran in turns, so a noisy moment affects both."""
    return median(a / b for a, b in zip(lanes, bare, strict=True))


def main() -> None:
    """Measures and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=5)
    parser.add_argument("--seconds", type=positive, default=1.5, help="of each shape in each round")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = asyncio.run(measure(options.runtimes.split(","), options.rounds, options.seconds))
    if options.json:
        print(json.dumps(found))
        return
    title = f"ResNet-18, images/s on {CORES} cores, median of {options.rounds} rounds: lanes / bare (ratio)"
    table = new_table(title, ["lanes x threads x batch"], [*found])
    for shape in ("x".join(map(str, shape)) for shape in SHAPES):
        cells = [of["shapes"][shape] for of in found.values() if isinstance(of, dict)]
        table.add_row(
            shape, *(f"{c['lanes_rows_per_s']:.1f} / {c['bare_rows_per_s']:.1f} ({c['ratio']:.3f})" for c in cells)
        )
    table.add_row(
        "MiB of a lane, 1 to 4 thread counts",
        *(", ".join(map(str, of["lane_mib_by_thread_counts"])) for of in found.values() if isinstance(of, dict)),
    )
    Console().print(table)


if __name__ == "__main__":
    main()
