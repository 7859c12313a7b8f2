"""Resizes a saturated server live: throughput follows the quota, threads stay within the budget, no request is lost.

First 2 -> 1 -> 2 cores, each held for some seconds, to compare answers per second with the profile of one lane and of
two. Then a random sequence of sizes, some fractional, in the operator's order of steps. Meanwhile /proc is read every
few milliseconds: the number of lane threads that run or wait for a CPU must fit the budget. Every request must be
answered.

    python -m bench.live_resize
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from bench.live_server import LiveServer
from bench.options import arguments
from bench.pressure import PatientClients, photographs
from bench.results import BAD, BLUE, SPONGE, Percentiles, new_table, save
from sponge_core.control_api import SizeRange
from sponge_core.cpu_sharing import thread_budget
from sponge_core.errors import SpongeError
from sponge_operator.clients.server import ControlClient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BATCH = 8
STEP_MILLI, MOST_MILLI = 250, 2000
SIZES = SizeRange(min_milli=STEP_MILLI, max_milli=MOST_MILLI, step_milli=STEP_MILLI)
SAMPLE_S = 0.004
AGAIN_S = 0.002
SETTLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One size that is held for a while."""

    milli: int
    seconds: float
    answers_rps: float


@dataclass(frozen=True, slots=True)
class Resize:
    """One step of the random sequence. `took_s` runs from the first step of the resize until the size is in force."""

    from_milli: int
    to_milli: int
    took_s: float


@dataclass(slots=True)
class Seen:
    """Samples of the lanes' threads under one budget."""

    samples: int = 0
    most: int = 0
    glimpses: int = 0  # samples above the budget
    over: int = 0  # samples above the budget that a second look confirmed


class ThreadWatch:
    """Samples the lanes' threads until it is stopped. `bound` is the number of threads allowed now."""

    def __init__(self, lanes: list[int], bound: int) -> None:
        self.bound = bound
        self.seen: dict[int, Seen] = {}
        self._lanes = lanes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            before = self.bound
            running = sum(_running(pid) for pid in self._lanes)
            if self.bound != before:
                continue  # changed while it was read
            seen = self.seen.setdefault(before, Seen())
            seen.samples += 1
            if running > before:
                # A lane that has answered may still be falling asleep while the next batch starts.
                seen.glimpses += 1
                time.sleep(AGAIN_S)
                running = min(running, sum(_running(pid) for pid in self._lanes))
                seen.over += running > before and self.bound == before
            if self.bound == before:
                seen.most = max(seen.most, running)


def _running(pid: int) -> int:
    """The number of threads of a process that run or wait for a CPU."""
    stats = (stat.read_text(encoding="ascii") for stat in Path(f"/proc/{pid}/task").glob("*/stat"))
    return sum(stat.rpartition(")")[2].split()[0] == "R" for stat in stats)


def profile_ratio(server: LiveServer) -> float:
    """Throughput at two cores over throughput at one, by the server's profile, which includes lane interference."""
    (taken,) = server.events("profile.taken")
    return 2.0 / (1.0 + float(taken["interference"]))


async def hold(server: LiveServer, client: ControlClient, clients: PatientClients, milli: int, seconds: float) -> Phase:
    """Resizes, waits a moment, then counts the answers of one phase."""
    await server.resize(client, milli, MAX_BATCH, SIZES)
    await asyncio.sleep(SETTLE_S)
    began, before = time.monotonic(), clients.answered
    await asyncio.sleep(seconds)
    elapsed_s = time.monotonic() - began
    return Phase(milli, round(elapsed_s, 2), round((clients.answered - before) / elapsed_s, 2))


async def wander(server: LiveServer, client: ControlClient, resizes: int) -> tuple[list[Resize], dict[int, Seen]]:
    """Applies a random sequence of sizes while the lanes' threads are sampled."""
    rng = random.Random(1)
    now = MOST_MILLI
    watch = ThreadWatch(server.lane_pids(), thread_budget(now / 1000))
    done: list[Resize] = []
    try:
        for _ in track(range(resizes), "resizing", console=Console(stderr=True), transient=True):
            to = rng.choice([milli for milli in range(STEP_MILLI, MOST_MILLI + 1, STEP_MILLI) if milli != now])
            budget = thread_budget(to / 1000)
            watch.bound = max(watch.bound, budget)  # a larger one counts from when the quota is written
            began = time.monotonic()
            await server.resize(client, to, MAX_BATCH, SIZES)
            done.append(Resize(now, to, time.monotonic() - began))
            watch.bound = budget
            now = to
            await asyncio.sleep(rng.uniform(0.1, 0.4))
    finally:
        watch.stop()
    return done, watch.seen


def draw(figure: Figure, phases: list[Phase], expected: float, resizes: list[Resize], seen: dict[int, Seen]) -> None:
    """Draws throughput by phase, resize times, and threads by budget."""
    left, middle, right = figure.subplots(1, 3)
    left.bar([f"{p.milli}m" + " " * i for i, p in enumerate(phases)], [p.answers_rps for p in phases], color=SPONGE)
    left.axhline(phases[1].answers_rps * expected, color=BAD, linestyle="--", label="one core x profile's ratio")
    left.set_ylim(0, 1.25 * max(p.answers_rps for p in phases))
    left.set_title("Answers/s in each phase")
    left.legend(frameon=False)
    for name, colour, those in (
        ("growing", SPONGE, [r for r in resizes if r.to_milli > r.from_milli]),
        ("shrinking", BLUE, [r for r in resizes if r.to_milli < r.from_milli]),
    ):
        middle.plot([r.to_milli for r in those], [1000 * r.took_s for r in those], "o", color=colour, label=name, ms=3)
    middle.set_yscale("log")
    middle.set_xlabel("to, millicores")
    middle.set_title("ms until in force")
    middle.legend(frameon=False)
    budgets = sorted(seen)
    right.bar([str(budget) for budget in budgets], [seen[budget].most for budget in budgets], color=SPONGE)
    right.set_xlabel("thread budget")
    right.set_title("Most threads seen running")


async def run(
    server: LiveServer, clients: PatientClients, seconds: float, resizes: int
) -> tuple[list[Phase], list[Resize], dict[int, Seen]]:
    """Runs the phases, then the random sequence."""
    async with ControlClient() as client:
        phases = [await hold(server, client, clients, milli, seconds) for milli in (2000, 1000, 2000)]
        wandered, seen = await wander(server, client, resizes)
    return phases, wandered, seen


def main() -> None:
    """Measures, writes and prints. Exits with 1 when a request was lost or threads stayed above their budget."""
    options = arguments(__doc__).parse_args()
    seconds, resizes = (4.0, 30) if options.short else (15.0, 120)
    try:
        with LiveServer(2.0, "--max-batch", str(MAX_BATCH), "--min-cores", "250m", "--step-cores", "250m") as server:
            expected = profile_ratio(server)
            with PatientClients(server, photographs(server)[0]) as clients:
                phases, wandered, seen = asyncio.run(run(server, clients, seconds, resizes))
                clients.stop()
                answered, failed = clients.answered, clients.failed
    except SpongeError as error:
        sys.exit(f"live_resize: {error}")
    grown = Percentiles.of([r.took_s for r in wandered if r.to_milli > r.from_milli])
    shrunk = Percentiles.of([r.took_s for r in wandered if r.to_milli < r.from_milli])
    document = {
        "phases": [asdict(phase) for phase in phases],
        "profile_ratio": expected,
        "resizes": len(wandered),
        "grow_ms": asdict(grown),
        "shrink_ms": asdict(shrunk),
        "threads": {budget: asdict(those) for budget, those in sorted(seen.items())},
        "answered": answered,
        "failed": failed,
    }
    save(options.out, "live_resize", document, lambda figure: draw(figure, phases, expected, wandered, seen))
    measured = (phases[0].answers_rps + phases[2].answers_rps) / 2 / phases[1].answers_rps
    rates = " -> ".join(f"{phase.milli}m {phase.answers_rps:.1f}/s" for phase in phases)
    print(f"{rates}; two cores give {measured:.2f} times one, the profile says {expected:.2f}")
    print(f"{answered} answered, {failed} failed, over {len(wandered)} random resizes")
    columns = ["thread budget", "samples", "above the budget", "still a moment later", "most threads"]
    table = new_table(None, [], columns)
    for budget, those in sorted(seen.items()):
        table.add_row(*map(str, (budget, those.samples, those.glimpses, those.over, those.most)))
    Console().print(table)
    print(f"ms until in force: growing {grown}, shrinking {shrunk}")
    sys.exit(failed > 0 or any(those.most > budget for budget, those in seen.items()))


if __name__ == "__main__":
    main()
