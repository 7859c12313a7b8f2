"""The reference: the model alone in a loop, without a server. Prints one JSON object per batch size.

    python -m bench.serving.bare --processes 2 --threads 1 --batches 1,4,8 --seconds 3

Each process has its own copy of the model. They start each batch size together. Of texts of many lengths, those of near
lengths share a batch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.options import at_least_one, positive
from bench.serving.model import load_model
from bench.serving.workloads import RESNET18, RUNTIMES, WORKLOADS, Served, Workload

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

WARM_UPS = 3


def loop(
    workload: Workload,
    threads: int,
    sizes: Sequence[int],
    seconds: float,
    barrier: Barrier,
    found: Queue[tuple[int, list[float]]],
) -> None:
    """Runs one process: each batch size for `seconds`. Reports the time of every batch."""
    model = load_model(threads)
    for size in sizes:
        batches = workload.batches(size)
        for rows in batches[:WARM_UPS]:
            model.run(rows)
        barrier.wait()
        end = time.perf_counter() + seconds
        times = []
        for rows in itertools.cycle(batches):
            began = time.perf_counter()
            if began >= end:
                break
            model.run(rows)
            times.append(time.perf_counter() - began)
        found.put((size, times))
        barrier.wait()


def summarised(batch: int, times: Sequence[Sequence[float]]) -> dict[str, float]:
    """Throughput of all processes, and percentiles of the times of their batches, which are in seconds."""
    # Each process's own rate, since its last batch may end after the time is over.
    rate = sum(batch * len(own) / sum(own) for own in times)
    p50, p99 = np.percentile([each for own in times for each in own], (50, 99)) * 1000
    return {"rows_per_s": round(rate, 2), "batch_p50_ms": round(float(p50), 2), "batch_p99_ms": round(float(p99), 2)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=at_least_one, default=1)
    parser.add_argument("--threads", type=at_least_one, default=1, help="per process")
    parser.add_argument("--workload", choices=WORKLOADS, default=RESNET18.name)
    parser.add_argument("--runtime", choices=RUNTIMES, default=RUNTIMES[0])
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--seconds", type=positive, default=3.0)
    options = parser.parse_args()
    batches = [int(word) for word in options.batches.split(",")]

    workload = WORKLOADS[options.workload]
    os.environ.update(Served(workload, options.runtime).environment)
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(options.processes), context.Queue()
    arguments = (workload, options.threads, batches, options.seconds, barrier, found)
    workers = [context.Process(target=loop, args=arguments) for _ in range(options.processes)]
    for worker in workers:
        worker.start()
    for batch in batches:
        times = [found.get() for _ in workers]
        assert all(size == batch for size, _ in times)
        figures = {"processes": options.processes, "threads": options.threads, "batch": batch}
        print(json.dumps(figures | summarised(batch, [own for _, own in times])), flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
