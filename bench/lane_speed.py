"""Measures how fast a lane runs ResNet-18 in each of its forms, and the lane's overhead over a bare torch loop.

The forms are eager, exported and compiled (AOTInductor), in fp32 and bf16, at several batch sizes and thread counts.
One lane holds all forms, and every round runs each of them once, so that noise affects all alike. The bare loop is a
process of its own in the same environment and takes its turn in every round.

    python -m bench.lane_speed --rounds 25
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track

from bench.options import at_least_one
from bench.results import new_table
from sponge_server.workers.examples import example_item
from sponge_server.workers.fork_server import ENVIRONMENT
from sponge_server.workers.interface import ItemError, ModelSpec
from sponge_server.workers.pool import WorkerPool
from sponge_system.cache_folder import cache_root

EAGER = "torchvision://resnet18?weights=none"
BATCHES, THREADS = (1, 4, 8), (1, 2)
BARE = "bare eager loop"

BARE_LOOP = """
import sys, time, torch
from sponge_server.models.example_rows import example_batch
from sponge_server.models.source import load
torch.set_num_interop_threads(1)
model = load(sys.argv[1])
inputs = {}
with torch.inference_mode():
    for line in sys.stdin:
        rows, threads = map(int, line.split())
        torch.set_num_threads(threads)
        given = inputs.setdefault(rows, example_batch(model, rows)[0])
        began = time.perf_counter()
        model.forward(given)
        print(time.perf_counter() - began, flush=True)
"""

Seconds = dict[tuple[str, int, int], list[float]]
"""Samples by (form, batch, threads)."""


def prepared(directory: Path) -> dict[str, str]:
    """The model source of every form. Exporting and compiling happen once, each in a process of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    exported = directory / "exported.pt2"
    if not exported.is_file():
        text = (
            "import sys, torch; from pathlib import Path\n"
            "from sponge_server.models.compiling import export; from sponge_server.models.source import load\n"
            "torch.export.save(export(load(sys.argv[1]), int(sys.argv[2])), sys.argv[3])"
        )
        subprocess.run([sys.executable, "-c", text, EAGER, str(max(BATCHES)), str(exported)], check=True)
    forms = {"eager": EAGER, "exported": f"file://{exported}"}
    for dtype in ("fp32", "bf16"):
        package = directory / f"compiled-{dtype}.pt2"
        if not package.is_file():
            command = [sys.executable, "-m", "sponge_cli.main", "compile", EAGER, "-o", str(package)]
            command += ["--max-batch", str(max(BATCHES)), "--dtype", dtype, "--accept-accuracy"]
            subprocess.run(command, check=True, stdout=sys.stderr)
        forms["compiled" if dtype == "fp32" else "compiled bf16"] = f"file://{package}"
    forms["eager bf16"] = f"{EAGER}&dtype=bf16&accept_accuracy=true"
    return forms


async def measure(forms: dict[str, str], rounds: int) -> tuple[Seconds, Seconds]:
    """Seconds in the lane, and seconds from the server's call to its result. Both include the bare loop."""
    inside: Seconds = {}
    outside: Seconds = {}
    pool = WorkerPool([ModelSpec(form.replace(" ", "-"), source, max(BATCHES)) for form, source in forms.items()])
    bare = subprocess.Popen(  # noqa: ASYNC220 - starts in a moment
        [sys.executable, "-c", BARE_LOOP, EAGER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    assert bare.stdin is not None
    assert bare.stdout is not None
    try:
        await pool.start(1)
        lane = pool.lanes[0]
        for number in track(range(rounds + 2), "measuring", console=Console(stderr=True), transient=True):
            for rows, threads in ((rows, threads) for rows in BATCHES for threads in THREADS):
                bare.stdin.write(f"{rows} {threads}\n")
                bare.stdin.flush()
                took = float(await asyncio.to_thread(bare.stdout.readline))
                found = {BARE: (took, took)}
                for model, form in enumerate(forms):
                    items = [example_item(pool.models[model], 1)] * rows
                    began = time.perf_counter()
                    result = await lane.run(items, threads, model=model)
                    found[form] = (result.batch_s, time.perf_counter() - began)
                    failed = [outputs for outputs in result.outputs if isinstance(outputs, ItemError)]
                    if failed:
                        raise failed[0]
                if number >= 2:  # the first rounds are for warming up
                    for form, (lane_s, call_s) in found.items():
                        inside.setdefault((form, rows, threads), []).append(lane_s)
                        outside.setdefault((form, rows, threads), []).append(call_s)
    finally:
        bare.stdin.close()
        bare.stdout.close()
        bare.wait()
        await pool.close()
    return inside, outside


def main() -> None:
    """Measures and prints a table or JSON."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least_one, default=25)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prepare", action="store_true", help="only export and compile, which is kept for later runs")
    options = parser.parse_args()
    forms = prepared(cache_root() / "bench" / f"lane-speed-torch{torch.__version__.split('+')[0]}")
    if options.prepare:
        return
    inside, outside = asyncio.run(measure(forms, options.rounds))
    points = [(rows, threads) for threads in THREADS for rows in BATCHES]
    if options.json:
        rows_of = {
            form: {f"{b}x{k}": round(median(inside[form, b, k]) * 1e3, 3) for b, k in points} for form in (BARE, *forms)
        }
        ratios = {f"{b}x{k}": round(_throughput_ratio(outside, b, k), 4) for b, k in points}
        print(json.dumps({"rounds": options.rounds, "median_ms": rows_of, "lane_over_bare": ratios}))
        return
    title = f"ResNet-18 in a lane, median ms of {options.rounds} batches"
    table = new_table(title, ["form"], [f"b={rows}, {threads} thr." for rows, threads in points])
    for form in (BARE, *forms):
        table.add_row(form, *(f"{median(inside[form, b, k]) * 1e3:.1f}" for b, k in points))
    table.add_row("lane / bare, throughput", *(f"{_throughput_ratio(outside, b, k):.3f}" for b, k in points))
    Console().print(table)


def _throughput_ratio(outside: Seconds, rows: int, threads: int) -> float:
    """The ratio of an eager lane, with messages and copies, to the bare loop."""
    return median(outside[BARE, rows, threads]) / median(outside["eager", rows, threads])


if __name__ == "__main__":
    main()
