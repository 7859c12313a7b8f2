"""Measures what clients that disconnect leave to the others: in overload, half of the clients leave early.

The same schedule is sent twice at 1.3 times the capacity. In the first run every client waits; in the second, every
other client closes its connection after 100 ms. The freed capacity must go to the remaining clients, so their goodput
must rise. Computed rows are compared with answers sent, because a cancelled request must leave before it is computed.

    python -m bench.disconnects
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from bench.live_server import LiveServer
from bench.options import arguments
from bench.pressure import photographs, saturated_rps
from bench.results import BLUE, SOFT, SPONGE, new_table, save
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody
from sponge_client.schedule import Schedule, make_schedule
from sponge_client.wire import precise_loop, prioritize_process
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES = 1.5
MAX_BATCH = 8
SLO_S = 0.5
PATIENCE_S = 0.1
OVERLOAD = 1.3
QUIET_S = 2.0
"""Pause between two runs, so that the queue of the first is empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run. `stayed*` counts the clients that wait in both runs, `left*` the others."""

    hang_ups: bool
    stayed: int
    stayed_in_time: int
    left: int
    left_in_time: int
    cancelled: int  # by the server's count
    computed: int  # rows of all batches
    answered: int  # in time or late, by the server's count

    @property
    def stayed_attainment(self) -> float:
        return self.stayed_in_time / self.stayed

    @property
    def in_vain(self) -> int:
        """Rows computed for clients that had left."""
        return self.computed - self.answered


def halves(rate: float, seconds: float, seed: int, bodies: int) -> tuple[Schedule, Schedule]:
    """One Poisson schedule, split into two halves: every second request, and the rest."""
    whole = make_schedule(poisson_arrivals(rate, seconds, seed), seconds, SLO_S, bodies, seed).shots
    return Schedule(whole[::2], seconds), Schedule(whole[1::2], seconds)


async def run(server: LiveServer, bodies: Sequence[InferBody], rate: float, seconds: float, hang_ups: bool) -> Row:
    """Sends the schedule. With `hang_up`, the second half disconnects."""
    before = server.metrics()
    runs = [
        LoadRun(server.url, server.model, schedule, bodies, timeout_s=timeout_s)
        for schedule, timeout_s in zip(
            halves(rate, seconds, 1, len(bodies)), (5.0, PATIENCE_S - SLO_S if hang_ups else 5.0), strict=True
        )
    ]
    await asyncio.gather(*(one.run() for one in runs))
    await asyncio.sleep(QUIET_S)
    after = server.metrics()
    stay, leave = runs

    def grown(name: str) -> int:
        return round(sum(value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name)))

    def outcome(name: str) -> int:
        label = f'outcome="{name}"'
        counted = (key for key in after if key.startswith("sponge_requests_total{") and label in key)
        return round(sum(after[key] - before.get(key, 0.0) for key in counted))

    return Row(
        hang_ups,
        len(stay.records),
        stay.counts["in_time"],
        len(leave.records),
        leave.counts["in_time"],
        outcome("cancelled"),
        grown("sponge_batch_size_sum"),
        outcome("in_time") + outcome("late"),
    )


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draws attainment of the clients that stayed, and the rows computed."""
    left, right = figure.subplots(1, 2)
    names = ["all wait", "half hang up"]
    left.bar(names, [100 * row.stayed_attainment for row in rows], color=[SOFT, SPONGE])
    left.set_ylabel("% in time of the clients that wait in both runs")
    left.set_title("What the others gain")
    answered = [row.answered for row in rows]
    right.bar(names, answered, color=BLUE, label="for an answer")
    right.bar(names, [row.in_vain for row in rows], bottom=answered, color=SOFT, label="for nobody")
    right.set_ylabel("rows computed")
    right.set_title("What was computed")
    right.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints. Exits with 1 when the remaining clients gain nothing."""
    options = arguments(__doc__).parse_args()
    seconds = 12.0 if options.short else 40.0
    with LiveServer(CORES, "--max-batch", str(MAX_BATCH)) as server:
        bodies = photographs(server)
        capacity = saturated_rps(server, bodies[0], 4.0 if options.short else 8.0)
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            prioritize_process()
            rows = [
                runner.run(run(server, bodies, OVERLOAD * capacity, seconds, hang_ups)) for hang_ups in (False, True)
            ]
    document = {
        "cores": CORES,
        "slo_s": SLO_S,
        "hang_up_after_s": PATIENCE_S,
        "capacity_rps": round(capacity, 2),
        "rows": [asdict(row) | {"stayed_attainment": row.stayed_attainment, "in_vain": row.in_vain} for row in rows],
    }
    save(options.out, "disconnects", document, lambda figure: draw(figure, rows))
    title = f"{OVERLOAD} x {capacity:.1f} requests/s, {seconds:.0f} s each"
    table = new_table(
        title, [""], ["stay", "of them in time", "%", "others", "cancelled", "computed", "answered", "in vain"]
    )
    for row in rows:
        counts = (row.left, row.cancelled, row.computed, row.answered, row.in_vain)
        name = "half hang up" if row.hang_ups else "all wait"
        table.add_row(
            name, str(row.stayed), str(row.stayed_in_time), f"{100 * row.stayed_attainment:.1f}", *map(str, counts)
        )
    Console(width=120).print(table)
    sys.exit(rows[1].stayed_in_time <= rows[0].stayed_in_time)


if __name__ == "__main__":
    main()
