"""Measures the CPU time of an idle server: all processes (HTTP, fork server, lanes), half a minute without requests.

At two cores and parked at 50m, each alone and with the operator's long poll open. The target is below 1 % of a core.

    python -m bench.idle_cost
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from bench.live_server import LiveServer
from bench.options import arguments
from bench.results import BAD, BLUE, SPONGE, new_table, save
from sponge_core.control_api import SizeRange
from sponge_core.errors import SpongeError
from sponge_operator.autoscale.control_loop import LoopSettings
from sponge_operator.clients.server import ControlClient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES = 2.0
PARKED_MILLI = 50
SIZES = SizeRange(min_milli=PARKED_MILLI, max_milli=2000, step_milli=50)
MAX_BATCH = 8
SETTLE_S = 5.0
POLL_S = LoopSettings().resting_poll_s
"""Duration of one long poll of the operator, from a server that has had no request for a while."""

PROMISED_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class Row:
    """One idle phase; values are percent of one core."""

    phase: str
    seconds: float
    http_percent: float
    lanes_percent: float  # with the fork server
    throttled_s: float

    @property
    def percent(self) -> float:
        return self.http_percent + self.lanes_percent


async def poll(server: LiveServer, client: ControlClient) -> None:
    """The operator's polling loop without its decisions. Runs until cancelled."""
    since = 0
    while True:
        since = (await client.state(server.control_url, server.token, since, POLL_S)).version


async def measure(server: LiveServer, phase: str, seconds: float, polled: bool, client: ControlClient) -> Row:
    """One phase. It starts after a pause, so that the previous change has settled."""
    poller = asyncio.create_task(poll(server, client)) if polled else None
    await asyncio.sleep(SETTLE_S)
    began, all_before, http_before = time.monotonic(), server.cpu_s(), server.http_cpu_s()
    throttled_before = server.cgroup.cpu_stat().throttled_s
    await asyncio.sleep(seconds)
    http_s = server.http_cpu_s() - http_before
    lanes_s = max(0.0, server.cpu_s() - all_before - http_s)  # the two readings are not simultaneous
    elapsed_s = time.monotonic() - began
    if poller is not None:
        poller.cancel()
        await asyncio.wait({poller})
    return Row(
        phase,
        round(elapsed_s, 1),
        round(100 * http_s / elapsed_s, 3),
        round(100 * lanes_s / elapsed_s, 3),
        round(server.cgroup.cpu_stat().throttled_s - throttled_before, 3),
    )


async def run(seconds: float) -> list[Row]:
    """Measures all phases on one server."""
    options = ("--max-batch", str(MAX_BATCH), "--min-cores", f"{PARKED_MILLI}m", "--step-cores", "50m")
    with LiveServer(CORES, *options) as server:
        async with ControlClient() as client:
            rows = []
            for milli in (round(CORES * 1000), PARKED_MILLI):
                await server.resize(client, milli, MAX_BATCH, SIZES)
                for polled in (False, True):
                    phase = f"{milli}m, " + ("long poll open" if polled else "nobody asks")
                    rows.append(await measure(server, phase, seconds, polled, client))
            return rows


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draws a bar per phase, HTTP and lanes stacked."""
    axes = figure.subplots()
    names = [row.phase for row in rows]
    axes.barh(names, [row.http_percent for row in rows], color=SPONGE, label="HTTP process")
    axes.barh(
        names,
        [row.lanes_percent for row in rows],
        left=[row.http_percent for row in rows],
        color=BLUE,
        label="fork server and lanes",
    )
    axes.axvline(PROMISED_PERCENT, color=BAD, linestyle="--", label="promised")
    axes.invert_yaxis()
    axes.set_xlabel("percent of one core")
    axes.set_title("CPU of an idle server with two lanes")
    axes.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints. Exits with 1 when the target is missed."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    try:
        rows = asyncio.run(run(10.0 if options.short else 30.0))
    except SpongeError as error:
        sys.exit(f"idle_cost: {error}")
    document = {
        "promised_percent": PROMISED_PERCENT,
        "phases": [asdict(row) | {"percent": row.percent} for row in rows],
    }
    save(options.out, "idle_cost", document, lambda figure: draw(figure, rows))
    title = "An idle server, percent of one core"
    table = new_table(title, ["phase"], ["seconds", "HTTP", "fork server, lanes", "together", "throttled s"])
    for row in rows:
        figures = (row.seconds, row.http_percent, row.lanes_percent, row.percent, row.throttled_s)
        table.add_row(row.phase, *(f"{figure:.3g}" for figure in figures))
    Console().print(table)
    sys.exit(any(row.percent >= PROMISED_PERCENT for row in rows))


if __name__ == "__main__":
    main()
