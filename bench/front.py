"""Measures what a front adds to a request: one after the other to a trivial model, straight and through the front.

The two ways take turns, so that both see the same noise. The difference is what the front adds, and the CPU time of
Envoy and of the picker is what it costs. `bench.front_pods` measures what a front makes of several pods.

    python -m bench.front           # needs root, for the cgroups
    python -m bench.front --short
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from bench.http_overhead import SMALL, WARM_UP, Caller
from bench.live_front import front_of
from bench.live_server import LiveServer, process_cpu_s
from bench.options import arguments, at_least_one
from bench.results import INK, SPONGE, Percentiles, new_table, save
from sponge_client.wire import prioritize_process
from sponge_core.routing.registry import DEFAULT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Added:
    """One way to a trivial model: the latency of its requests, and the CPU time that each took in the front."""

    way: str
    latency_ms: Percentiles
    envoy_cpu_ms: float
    picker_cpu_ms: float


def measure(requests: int) -> list[Added]:
    """Sends requests one after the other, straight and through the front in turns."""
    with (
        LiveServer(1, model="none", source="python://bench.http_model:small") as server,
        front_of([server], DEFAULT) as front,
    ):
        callers = {
            "straight": Caller(server.url, "none", "x", SMALL),
            "front": Caller(f"http://127.0.0.1:{front.http}", "none", "x", SMALL),
        }
        times: dict[str, list[float]] = {way: [] for way in callers}
        pids = (front.envoy.pid, front.picker.pid)
        used = [0.0, 0.0]
        for number in range(WARM_UP + requests):
            if number == WARM_UP:
                used = [process_cpu_s(pid) for pid in pids]
            for way, caller in callers.items():
                began = time.perf_counter()
                caller.call()
                times[way].append(time.perf_counter() - began)
        envoy, picker = (
            1000 * (process_cpu_s(pid) - before) / requests for pid, before in zip(pids, used, strict=True)
        )
    measured = {way: Percentiles.of(each[WARM_UP:]) for way, each in times.items()}
    return [Added("straight", measured["straight"], 0.0, 0.0), Added("front", measured["front"], envoy, picker)]


def draw(figure: Figure, rows: Sequence[Added]) -> None:
    """Draws the median and the 99th percentile of each way."""
    axes = figure.subplots()
    for offset, name in enumerate(("p50", "p99")):
        values = [getattr(row.latency_ms, name) for row in rows]
        axes.barh(
            [place + 0.4 * offset for place in range(len(rows))], values, 0.4, color=(SPONGE, INK)[offset], label=name
        )
    axes.set_yticks([place + 0.2 for place in range(len(rows))], [row.way for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("latency, ms")
    axes.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=at_least_one, default=1000)
    options = parser.parse_args()
    requests = 200 if options.short else options.requests
    prioritize_process()
    rows = measure(requests)
    title = f"A trivial model, {requests} requests one after the other"
    table = new_table(title, ["way"], ["p50 ms", "p99 ms", "CPU of Envoy, ms a request", "of the picker"])
    for row in rows:
        cells = (row.latency_ms.p50, row.latency_ms.p99, row.envoy_cpu_ms, row.picker_cpu_ms)
        table.add_row(row.way, *(f"{cell:.2f}" for cell in cells))
    Console(width=120).print(table)
    save(options.out, "front", {"rows": [asdict(row) for row in rows]}, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
