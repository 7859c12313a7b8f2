"""Compares the simulator with a real cluster on one schedule of requests.

The demo's service (ResNet-18, 250m to 1500m, 800 ms end to end, 9 requests/s over the 4G uplink) on the local
Kubernetes: real operator, real kubelet, real server. Then the same requests in virtual time, twice: once as `sponge
simulate` runs them, with the profile unchanged, and once with figures measured on this cluster. Each of those figures
comes from a log or a metric: the times of resizes and batches, and the CPU that the server used beside them. In the
second run the server's own code calibrates the profile and extrapolates uploads, the quota is enforced as the kernel
does, and server and operator run at their own intervals. Attainment and cores of the real run are not used.

    python -m bench.fidelity --arrivals poisson,burst
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.options import arguments, natural, positive
from bench.results import BLUE, INK, SOFT, SPONGE, Percentiles, new_table, save
from bench.scraping import scraped
from sponge_cluster.chart import NAMESPACE as OPERATOR_NAMESPACE
from sponge_core.dispatch.decision import Launch
from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_demo.backend import DemoError, Endpoint, PodFacts
from sponge_demo.cluster import NAMESPACE, ClusterBackend
from sponge_demo.document import Story
from sponge_demo.scenario import Scenario, uplink_of
from sponge_demo.session import Session
from sponge_demo.steps import corners, mean_of
from sponge_demo.virtual import (
    LEAD_S,
    CalibratedBatches,
    SeenUploads,
    service_of,
    size_steps,
    to_the_ms,
    virtual_requests,
)
from sponge_demo.workload import Workload
from sponge_profiles.profile import load_profile
from sponge_simulator.fleet import ClusterModel, TimelinePoint, simulate
from sponge_simulator.scaling.registry import make_policy
from sponge_workload.files import load_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPERATOR = "deploy/sponge-operator"
VERBOSE = {"spec": {"containers": [{"name": "server", "env": [{"name": "SPONGE_SERVE_LOG_LEVEL", "value": "debug"}]}]}}
DEFAULT_RESIZE_S = 0.037
"""The median of `bench.resize_latency`."""


@dataclass(frozen=True, slots=True)
class SteadyScenario(Scenario):
    """The service of this comparison, at a steady rate. `arrivals` is poisson or burst."""

    slo_s: float = 0.8
    payload_bytes: int = 303_600
    max_batch: int = 8
    max_milli: int = 1500
    step_milli: int = 125
    profile: str = "resnet18-epyc"
    arrivals: str = "poisson"
    rate_rps: float = 9.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Figures measured in real runs. `batches_s` holds CPU seconds of batches on one thread, by batch size."""

    batches_s: dict[int, tuple[float, ...]]
    resizes_s: tuple[float, ...]
    overhead_cores: float


@dataclass(frozen=True, slots=True)
class Row:
    """One side of the comparison. `steps`: (seconds after the start, cores from then on)."""

    arrivals: str
    side: str
    sent: int
    in_time: int
    late: int
    refused: int
    attainment: float
    mean_cores: float
    resizes: int
    p99_ms: float | None
    steps: list[tuple[float, float]] = field(repr=False)


class WatchedCluster(ClusterBackend):
    """The demo's cluster, which also keeps the logs and metrics of a run."""

    def __init__(self) -> None:
        super().__init__(VERBOSE)
        self._cpu_s: list[tuple[float, float]] = []
        self.evidence: list[Evidence] = []

    async def start(self, scenario: Scenario) -> Endpoint:
        self._cpu_s.clear()
        return await super().start(scenario)

    async def facts(self) -> PodFacts:
        """The server's CPU seconds, read just before and just after the load."""
        assert self._endpoint is not None
        facts = await super().facts()
        samples = await asyncio.to_thread(scraped, f"{self._endpoint.control_url}/metrics")
        cpu_s = samples.get("process_cpu_seconds_total")
        if cpu_s is None:
            raise DemoError("the server's metrics have no process_cpu_seconds_total")
        self._cpu_s.append((time.monotonic(), cpu_s))
        return facts

    async def stop(self) -> None:
        if len(self._cpu_s) == 2:
            (began, before), (ended, after) = self._cpu_s
            self._cpu_s.clear()
            pods = await asyncio.to_thread(self._kubectl, "logs", "-n", NAMESPACE, self._pod)
            operator = await asyncio.to_thread(self._kubectl, "logs", "-n", OPERATOR_NAMESPACE, OPERATOR)
            took = re.findall(rf"resize\.actuated pod={self._pod} \S+ took=(\S+)", operator)
            overhead = (after - before) / (ended - began)
            self.evidence.append(Evidence(batch_times(pods), tuple(float(s) for s in took), overhead))
        await super().stop()


def batch_times(log: str) -> dict[int, tuple[float, ...]]:
    """CPU seconds of the logged batches that ran on one thread, by batch size."""
    found: dict[int, list[float]] = {}
    for line in log.splitlines():
        if '"batch.done"' in line:
            batch = json.loads(line)
            if batch["threads"] == 1:
                found.setdefault(batch["rows"], []).append(batch["cpu_ms"] / 1000)
    return {rows: tuple(times) for rows, times in sorted(found.items())}


def pooled(evidence: Sequence[Evidence]) -> Evidence:
    """The figures of all runs together."""
    sizes = sorted({rows for each in evidence for rows in each.batches_s})
    return Evidence(
        {rows: tuple(s for each in evidence for s in each.batches_s.get(rows, ())) for rows in sizes},
        tuple(took for each in evidence for took in each.resizes_s),
        fmean(each.overhead_cores for each in evidence),
    )


def drive(scenario: SteadyScenario, backend: WatchedCluster, folder: Path, say: Callable[[str], None]) -> Row:
    """Runs the schedule on the real cluster."""
    trace, from_s = uplink_of(scenario, os.environ)
    workload = Workload(tuple(due_at(scenario)), (), start_milli=scenario.min_milli)
    story = Story(scenario, trace.starting_at(from_s), from_s, backend.description, workload)
    session = Session(story, backend, statics=(), most_statics=0, folder=folder, enter=say, say=say)
    asyncio.run(session.run())
    run, figures = story.runs[0], story.figures[0]
    assert run.started_at is not None
    if figures.restarts:
        raise DemoError("the server was restarted during the run, so its figures are not valid")
    steps = [(sample.at - run.started_at, sample.cores_milli / 1000) for sample in run.samples]
    return Row(
        scenario.arrivals,
        "cluster",
        figures.sent,
        figures.in_time,
        figures.late,
        figures.refused,
        round(figures.in_time / figures.sent, 5),
        figures.mean_cores,
        figures.resizes,
        figures.p99_ms,
        to_the_ms(corners(steps, scenario.duration_s)),
    )


def due_at(scenario: SteadyScenario) -> list[float]:
    """Send times, equal to those of `sponge load` with the same arguments."""
    arrivals = load_arrivals(scenario.arrivals, scenario.rate_rps, scenario.duration_s, scenario.seed, os.environ)
    return [at for at in arrivals if at < scenario.duration_s]


class MeasuredBatches(CalibratedBatches):
    """Batch times are those measured for the same size.

    For more threads, and for sizes that were not measured, the error of the nearest size on one thread is used.
    """

    def __init__(self, profile: LatencyModel, seen: Evidence, seed: int) -> None:
        super().__init__(profile, seed)
        self._ratios = {
            rows: [each / profile.latency(rows, 1) for each in times] for rows, times in seen.batches_s.items()
        }

    def takes_s(self, launch: Launch) -> float:
        rows = len(launch.requests)
        nearest = min(self._ratios, key=lambda seen: abs(seen - rows))
        return self._profile.latency(rows, launch.threads) * self._draw.choice(self._ratios[nearest])


def replay(scenario: SteadyScenario, side: str, policy: str, model: LatencyModel, seen: Evidence | None) -> Row:
    """The run in virtual time: as `sponge simulate` would do it, or with the figures measured on the cluster."""
    trace, from_s = uplink_of(scenario, os.environ)
    uplink = trace.starting_at(from_s)
    resizes = seen.resizes_s if seen and seen.resizes_s else (DEFAULT_RESIZE_S,)
    service = service_of(scenario, model, scenario.rate_rps, resizes, seen.overhead_cores if seen else 0.0)
    draw = random.Random(scenario.seed)
    chosen = make_policy(policy, service)
    world = ClusterModel(LEAD_S + scenario.duration_s, lambda: draw.choice(resizes), by_periods=True)
    if seen is not None:
        batches = MeasuredBatches(model, seen, scenario.seed)
        uploads = SeenUploads(uplink, scenario.payload_bytes)
        world = replace(world, takes_s=batches.takes_s, learn=batches.learn, upload_left_s=uploads.left_s)
    result = simulate(
        virtual_requests(scenario, due_at(scenario), uplink), service, chosen.scaling, chosen.dispatch, world
    )
    steps = size_steps(result.timeline, scenario.duration_s)
    latencies = result.latencies_s
    return Row(
        scenario.arrivals,
        side,
        result.sent,
        result.in_time,
        result.late,
        result.shed,
        round(result.in_time / result.sent, 5),
        round(mean_of(steps), 3),
        _changes(result.timeline),
        round(float(np.percentile(latencies, 99)) * 1000, 1) if latencies else None,
        steps,
    )


def _changes(timeline: Sequence[TimelinePoint]) -> int:
    return sum(moment.at_s >= LEAD_S for moment in timeline)


def draw_cores(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws cores over time, one panel per kind of arrivals."""
    kinds = list(dict.fromkeys(row.arrivals for row in rows))
    colours = {"cluster": SPONGE, "simulator, told": BLUE, "simulator": SOFT}
    for axes, kind in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        for row in reversed([row for row in rows if row.arrivals == kind]):
            label = f"{row.side}: {row.attainment:.2%} in time, {row.mean_cores:.3f} cores"
            times, cores = zip(*row.steps, strict=True)
            axes.step(times, cores, where="post", color=colours.get(row.side, INK), label=label, linewidth=1.2)
        axes.set_ylim(0, 1.6 * max(cores for row in rows if row.arrivals == kind for _, cores in row.steps))
        axes.set_title(f"Cores over time, {kind} arrivals")
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set_xlabel("s")


def table_of(rows: Sequence[Row]) -> Table:
    """A table of every row with its difference from the cluster's figures."""
    figures = ["sent", "in time", "off by, points", "cores", "off by", "resizes", "p99 ms"]
    table = new_table(None, ["arrivals", ""], figures)
    for row in rows:
        real = next(other for other in rows if other.arrivals == row.arrivals and other.side == "cluster")
        off = ("", "") if row is real else _off(row, real)
        p99 = "-" if row.p99_ms is None else f"{row.p99_ms:.0f}"
        counts = (str(row.sent), f"{row.attainment:.2%}", off[0], f"{row.mean_cores:.3f}", off[1], str(row.resizes))
        table.add_row(row.arrivals, row.side, *counts, p99)
    return table


def _off(row: Row, real: Row) -> tuple[str, str]:
    return f"{100 * (row.attainment - real.attainment):+.2f}", f"{row.mean_cores / real.mean_cores - 1:+.1%}"


def run_all(scenarios: Sequence[SteadyScenario], model: LatencyModel, folder: Path) -> tuple[list[Row], Evidence]:
    """Runs every kind of arrivals on one cluster, then all of them in virtual time."""
    backend = WatchedCluster()
    rows: list[Row] = []

    def say(text: str) -> None:
        Console(stderr=True).print(text, highlight=False)

    try:
        backend.open(say, say)
        real = [drive(scenario, backend, folder, say) for scenario in scenarios]
    finally:
        backend.close()
    seen = pooled(backend.evidence)
    for scenario, row in zip(scenarios, real, strict=True):
        told = replay(scenario, "simulator, told", "sponge-deployed", model, seen)
        rows += [row, told, replay(scenario, "simulator", "sponge", model, None)]
    return rows, seen


def main() -> None:
    """Runs both, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--arrivals", default="poisson,burst", help="poisson, burst or both (default)")
    parser.add_argument("--seconds", type=positive, default=70.0, help="of each run (default 70)")
    parser.add_argument("--seed", type=natural, default=1)
    parser.add_argument("--json", action="store_true", help="print the document that is written")
    options = parser.parse_args()
    seconds = 20.0 if options.short else options.seconds
    kinds = options.arrivals.split(",")
    if not set(kinds) <= {"poisson", "burst"}:
        parser.error(f"--arrivals {options.arrivals}: name poisson, burst or both with a comma")
    scenarios = [SteadyScenario(seconds, arrivals=kind, seed=options.seed) for kind in kinds]
    model = load_profile(scenarios[0].profile).latency_model()
    try:
        with tempfile.TemporaryDirectory(prefix="sponge-fidelity-") as folder:
            rows, seen = run_all(scenarios, model, Path(folder))
    except SpongeError as error:
        sys.exit(f"fidelity: {error}")
    document: dict[str, Any] = {
        "scenario": asdict(scenarios[0]),
        "rows": [asdict(row) for row in rows],
        "measured": asdict(seen),
    }
    save(options.out, "fidelity", document, lambda figure: draw_cores(figure, rows))
    if options.json:
        print(json.dumps(document))
        return
    Console(width=None if sys.stdout.isatty() else 120).print(table_of(rows))
    print(f"measured: ms until a resize was in force, {Percentiles.of(seen.resizes_s)}; ", end="")
    print(f"{seen.overhead_cores:.3f} cores beside the batches; batches over their profile, by rows: ", end="")
    each = (f"{rows}: {fmean(s) / model.latency(rows, 1):.2f} (n {len(s)})" for rows, s in seen.batches_s.items())
    print(", ".join(each))


if __name__ == "__main__":
    main()
