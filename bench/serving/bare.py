"""The reference: torch alone in a loop, without a server. Prints one JSON object per batch size.

    python -m bench.serving.bare --processes 2 --threads 1 --batches 1,4,8 --seconds 3

Processes are forked from one that has loaded the model. They start each batch size together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.serving.model import infer_tensor, load_model
from bench.serving.shared import INPUT_SHAPE

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

WARM_UPS = 3


def loop(
    model: torch.nn.Module,
    threads: int,
    batches: Sequence[int],
    seconds: float,
    barrier: Barrier,
    found: Queue[tuple[int, list[float]]],
) -> None:
    """Runs one process: each batch size for `seconds`. Reports the time of every batch."""
    torch.set_num_threads(threads)
    for batch in batches:
        rows = torch.randn(batch, *INPUT_SHAPE)
        for _ in range(WARM_UPS):
            infer_tensor(model, rows)
        barrier.wait()
        end = time.perf_counter() + seconds
        times = []
        while (began := time.perf_counter()) < end:
            infer_tensor(model, rows)
            times.append(time.perf_counter() - began)
        found.put((batch, times))
        barrier.wait()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of torch, per process")
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    batches = [int(word) for word in options.batches.split(",")]

    model = load_model(1)
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(options.processes), context.Queue()
    arguments = (model, options.threads, batches, options.seconds, barrier, found)
    workers = [context.Process(target=loop, args=arguments) for _ in range(options.processes)]
    for worker in workers:
        worker.start()
    for batch in batches:
        times = [found.get() for _ in workers]
        assert all(size == batch for size, _ in times)
        of_batch = [t for _, list_ in times for t in list_]
        # Each process's own rate, since its last batch may end after the time is over.
        rate = sum(batch * len(list_) / sum(list_) for _, list_ in times)
        figures = {
            "processes": options.processes,
            "threads": options.threads,
            "batch": batch,
            "images_per_s": round(rate, 2),
            "batch_p50_ms": round(float(np.percentile(of_batch, 50)) * 1000, 2),
            "batch_p99_ms": round(float(np.percentile(of_batch, 99)) * 1000, 2),
        }
        print(json.dumps(figures), flush=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
