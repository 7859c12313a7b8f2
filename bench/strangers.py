"""Measures what hostile clients take from the others: 20 good requests per second with 300 ms each, beside 200 of them.

The hostile connections are of mixed kinds (malformed and amplifying requests over HTTP and gRPC, slow ones, deaf ones,
ones that leave). The first run has none; the next ones send more and more malformed requests per second, until the last
one sends as many as it can. The table shows the CPU that the server's HTTP process used: a whole core is the end of
what one event loop can refuse. All load comes from the same machine, so it also shows how many cores were left idle.

    python -m bench.strangers
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from bench.fuzzing.exchange import Addresses
from bench.fuzzing.hostile import HostileClients
from bench.fuzzing.watch import HealthWatch
from bench.live_server import LiveServer
from bench.options import arguments
from bench.results import BAD, SOFT, SPONGE, new_table, save
from sponge_client.client import SpongeClient
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody
from sponge_client.payloads import tensor_bodies
from sponge_client.schedule import make_schedule
from sponge_client.wire import precise_loop, prioritize_process
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "digits"
CONNECTIONS = 200
GOOD_RPS, GOOD_SLO_S = 20.0, 0.3
TARGET = 0.99
RATES = (0.0, 50.0, 100.0, 200.0, 400.0, None)
"""Malformed requests per second: of the run with good clients alone, of those beside hostile ones; None: no pause."""

WITHIN_CPU, WITHIN_IDLE = 0.7, 0.1
"""The HTTP process has CPU left below the first share of a core, and the machine has if more cores than the second were
idle. With both, the good requests have to be in time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run. `rate` is what was asked for; None means no pause. `hostile_rps` is what was reached."""

    rate: float | None
    hostile_rps: float
    good: int
    in_time: int
    health_p99_ms: float
    health_worst_ms: float
    http_cores: float
    idle_cores: float
    lane_crashes: int

    @property
    def attainment(self) -> float:
        return self.in_time / self.good


async def run(server: LiveServer, bodies: Sequence[InferBody], rate: float | None, seconds: float, seed: int) -> Row:
    """Sends the good schedule beside hostile clients, which start a second before it."""
    schedule = make_schedule(poisson_arrivals(GOOD_RPS, seconds, seed), seconds, GOOD_SLO_S, len(bodies), seed)
    load = LoadRun(server.url, MODEL, schedule, bodies)
    addresses = Addresses(server.url.removeprefix("http://"), server.grpc)
    hostile = HostileClients(addresses, CONNECTIONS, rate, seed) if rate != 0.0 else None
    with hostile or contextlib.nullcontext(), HealthWatch(server.url) as health:
        await asyncio.sleep(1.0)
        began, cpu_s, idle_s = time.monotonic(), server.http_cpu_s(), psutil.cpu_times().idle
        await load.run()
        took_s = time.monotonic() - began
        http_cores = (server.http_cpu_s() - cpu_s) / took_s
        idle_cores = (psutil.cpu_times().idle - idle_s) / took_s
    return Row(
        rate,
        round(hostile.sent / (took_s + 1.0), 1) if hostile else 0.0,
        len(load.records),
        load.counts["in_time"],
        round(health.p99_ms, 1),
        round(health.worst_ms, 1),
        round(http_cores, 3),
        round(idle_cores, 3),
        round(server.metrics()[f'sponge_lane_crashes_total{{model="{MODEL}"}}']),
    )


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draws the share in time, and the core that refusals take, over the hostile requests per second."""
    axes = figure.subplots()
    reached = [row.hostile_rps for row in rows]
    axes.plot(reached, [100 * row.attainment for row in rows], "o-", color=SPONGE, label="good requests in time, %")
    axes.plot(reached, [100 * row.http_cores for row in rows], "s--", color=SOFT, label="HTTP process, % of a core")
    axes.plot(reached, [100 * row.idle_cores for row in rows], "^:", color=SOFT, label="idle, % of a core")
    axes.axhline(100 * TARGET, color=BAD, lw=0.9, ls=":")
    axes.set_ylim(0, 105)
    axes.set_xlabel("hostile requests per second")
    axes.set_title(f"{GOOD_RPS:g} good requests per second beside {CONNECTIONS} hostile connections")
    axes.legend(frameon=False, loc="center right")


def main() -> None:
    """Measures, writes and prints. Exits with 1 if good requests were late though the server had CPU left."""
    options = arguments(__doc__).parse_args()
    seconds = 10.0 if options.short else 60.0
    with LiveServer(2, "--slo-ms", "300", model=MODEL, source="digits://") as server:
        bodies = asyncio.run(_bodies(server))
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            prioritize_process()
            rows = [runner.run(run(server, bodies, rate, seconds, 1 + number)) for number, rate in enumerate(RATES)]
        lanes = len(server.state().lanes)
    document = {
        "connections": CONNECTIONS,
        "good_rps": GOOD_RPS,
        "good_slo_s": GOOD_SLO_S,
        "seconds": seconds,
        "lanes_at_the_end": lanes,
        "rows": [asdict(row) | {"attainment": round(row.attainment, 4)} for row in rows],
    }
    save(options.out, "strangers", document, lambda figure: draw(figure, rows))
    title = f"{GOOD_RPS:g}/s of {GOOD_SLO_S:g} s beside {CONNECTIONS} hostile connections, {seconds:g} s"
    figures = ["reached/s", "good", "in time", "%", "health p99 / worst ms", "HTTP cores", "idle", "crashes"]
    table = new_table(title, [], ["asked", *figures])
    for row in rows:
        asked = "no pause" if row.rate is None else f"{row.rate:g}/s" if row.rate else "no strangers"
        health = f"{row.health_p99_ms:g} / {row.health_worst_ms:g}"
        counts = (row.good, row.in_time, f"{100 * row.attainment:.2f}")
        cells = (asked, row.hostile_rps, *counts, health, row.http_cores, row.idle_cores, row.lane_crashes)
        table.add_row(*map(str, cells))
    Console(width=120).print(table)
    left = [row for row in rows if row.http_cores < WITHIN_CPU and row.idle_cores > WITHIN_IDLE]
    sys.exit(any(row.attainment < TARGET for row in left))


async def _bodies(server: LiveServer) -> list[InferBody]:
    async with SpongeClient(server.url) as client:
        return tensor_bodies(await client.metadata(MODEL), None, 1)


if __name__ == "__main__":
    main()
