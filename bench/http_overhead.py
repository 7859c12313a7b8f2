"""Measures the server's own cost: latency and CPU per request to a trivial model, and throughput at saturation against
a bare loop.

A request is the 602 KB tensor of an image, or a small tensor. The client sends one request at a time over one
connection, so its waiting time is the server's own time. At saturation, ResNet-18 on one core gets more requests with
loose deadlines than it can serve; the reference is a loop over the same batches on the same core.
`python -m bench.serving overhead` measures the peers.

    python -m bench.http_overhead                     # needs root, for the cgroup; some two minutes
    python -m bench.http_overhead --skip-saturation   # half a minute
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from bench.live_server import LiveServer
from bench.options import at_least_one
from bench.serving.measure import bare
from bench.serving.workloads import RESNET18, Served
from sponge_client.oip import HEADER_LENGTH, Tensor, encode

__all__ = ["Overhead", "Saturation", "main"]

IMAGE, SMALL = (3, 224, 224), (16,)
WARM_UP = 100
LOOSE_MS = 60_000
BATCH = 8
IN_FLIGHT = 3 * BATCH
SATURATED_S, SETTLE_S, BARE_S = 20.0, 5.0, 8.0


@dataclass(frozen=True, slots=True)
class Overhead:
    """One request size: the latency that its client sees, and the CPU time of the server's processes."""

    request_bytes: int
    requests: int
    p50_ms: float
    p99_ms: float
    http_cpu_ms: float
    lanes_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Saturation:
    """Images per second of ResNet-18 on one core, through the server and without."""

    server_rps: float
    mean_batch: float
    bare_rps: float
    share: float


class Caller:
    """A client with one keep-alive connection, one request at a time, and little overhead of its own."""

    def __init__(self, url: str, model: str, tensor: str, shape: Sequence[int]) -> None:
        address = urlsplit(url)
        body = encode([Tensor(tensor, "FP32", (1, *shape), bytes(4 * math.prod(shape)))])
        head = (
            f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/octet-stream\r\n{HEADER_LENGTH}: {body.header_length}\r\n"
            f"Content-Length: {len(body.data)}\r\nx-sponge-slo-ms: {LOOSE_MS}\r\n\r\n"
        )
        self.request = head.encode() + body.data
        self._socket = socket.create_connection((str(address.hostname), int(address.port or 80)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self) -> None:
        """Sends a request and reads the answer. Raises RuntimeError unless its status is 200."""
        self._socket.sendall(self.request)
        answer = self._read()
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {answer[:300]!r}")
        missing = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) - len(body)
        while missing > 0:
            missing -= len(self._read())

    def _read(self) -> bytes:
        part = self._socket.recv(1 << 18)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part


def measure_overhead(shape: tuple[int, ...], requests: int) -> Overhead:
    """Sends requests one after the other to a server with a core of its own."""
    factory = "image" if shape == IMAGE else "small"
    with LiveServer(2, model="none", source=f"python://bench.http_model:{factory}") as server:
        caller = Caller(server.url, "none", "x", shape)
        for _ in range(WARM_UP):
            caller.call()
        http_s, all_s = server.http_cpu_s(), server.cpu_s()
        times = []
        for _ in range(requests):
            began = time.perf_counter()
            caller.call()
            times.append(time.perf_counter() - began)
        http_s, all_s = server.http_cpu_s() - http_s, server.cpu_s() - all_s
    times.sort()
    return Overhead(
        request_bytes=len(caller.request),
        requests=requests,
        p50_ms=1000 * statistics.median(times),
        p99_ms=1000 * times[int(0.99 * len(times))],
        http_cpu_ms=1000 * http_s / requests,
        lanes_cpu_ms=1000 * (all_s - http_s) / requests,
    )


def measure_saturation() -> Saturation:
    """Sends enough requests at once that full batches run without a pause."""
    stop = threading.Event()

    def keep_asking(caller: Caller) -> None:
        while not stop.is_set():
            caller.call()

    with LiveServer(1, "--max-batch", str(BATCH), source="python://bench.serving.sponge_model:resnet18") as server:
        callers = [Caller(server.url, server.model, "input", IMAGE) for _ in range(IN_FLIGHT)]
        threads = [threading.Thread(target=keep_asking, args=(caller,)) for caller in callers]
        for thread in threads:
            thread.start()
        time.sleep(SETTLE_S)
        before, began = _rows_and_batches(server), time.perf_counter()
        time.sleep(SATURATED_S)
        after, took_s = _rows_and_batches(server), time.perf_counter() - began
        stop.set()
        for thread in threads:
            thread.join()
    rows, batches = (now - then for now, then in zip(after, before, strict=True))
    bare_rps = float(bare(Served(RESNET18), 1, 1, 1, [BATCH], BARE_S)[0]["rows_per_s"])
    return Saturation(rows / took_s, rows / batches, bare_rps, rows / took_s / bare_rps)


def _rows_and_batches(server: LiveServer) -> tuple[float, float]:
    metrics = server.metrics()
    label = f'{{model="{server.model}"}}'
    return metrics[f"sponge_batch_size_sum{label}"], metrics[f"sponge_batch_size_count{label}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=at_least_one, default=2000, help="of each size")
    parser.add_argument("--skip-saturation", action="store_true", help="latency and CPU only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    sizes = [measure_overhead(shape, options.requests) for shape in (SMALL, IMAGE)]
    saturation = None if options.skip_saturation else measure_saturation()
    if options.json:
        whole = {"overhead": [asdict(size) for size in sizes], "saturation": saturation and asdict(saturation)}
        sys.stdout.write(json.dumps(whole) + "\n")
        return
    for size in sizes:
        print(
            f"{size.request_bytes:7,} B: p50 {size.p50_ms:.3f} ms, p99 {size.p99_ms:.3f} ms; "
            f"CPU a request: HTTP process {size.http_cpu_ms:.3f} ms, lanes {size.lanes_cpu_ms:.3f} ms"
        )
    if saturation is not None:
        print(
            f"saturated: {saturation.server_rps:.2f} images/s in batches of {saturation.mean_batch:.1f}; "
            f"bare loop {saturation.bare_rps:.2f}; share {saturation.share:.3f}"
        )


if __name__ == "__main__":
    main()
