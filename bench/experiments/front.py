"""Compares rules by which a front chooses the pod of a request: three pods of half a core, each with its own queue.

Runs in virtual time with the server's own dispatch rule and the front's own routing rules. Requests come at 0.9 of what
the pods answer in full batches (ResNet-18, the shipped profile), over the recorded 4G uplink, which uses up a part of
each SLO: the mix "wide" has three in ten due within 500 ms and the others within 1000 ms, 50 KB each; "tight" 300 and
1000 ms, 20 KB each. They come by a Poisson process, or all of a second at once.

What a front cannot foresee is as measured on live pods (`bench.front_pods`): a batch takes what is predicted with a
standard deviation of 0.09; a pod's quota is enforced in periods of 100 ms, and once it is used up the pod does not
receive and report either; its process uses 0.03 cores beside the batches; a front chooses when the header has come and
the body has not; and what a pod sheds for others goes to another one, once. Pods report every 20 ms, a report is 2 ms
old when it is read, and a hop takes 1 ms.

Beside the rules stand one pod with all the cores, three pods that share one queue, a front that knows all at once, and
kube-proxy. Then two fronts are compared while reports are 5 s old, and, at a load of 0.6, while a pod or a front fails
from 20 s to 40 s. Runs last longer, so that every trouble ends.

    python -m bench.experiments.front
    python -m bench.experiments.front --short
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.results import SOFT, SPONGE, new_table, save
from bench.simulations import arguments, run_all
from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.edf_queue import Request
from sponge_core.routing.registry import DEFAULT, RULES
from sponge_profiles.profile import load_profile
from sponge_simulator.ablation import Ablated
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.fronts.run import simulate_fronts
from sponge_simulator.fronts.settings import FAULTS, Fault, Fronts, Network, Site
from sponge_simulator.scaling.interface import Service
from sponge_simulator.scaling.static import Static
from sponge_simulator.scenario import Scenario, SloClass
from sponge_workload.files import load_arrivals, load_bandwidth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROFILE: Final = load_profile("resnet18-epyc")
MODEL: Final = PROFILE.latency_model()
PODS: Final = 3
CORES: Final = 0.5
OVERHEAD: Final = 0.03
NOISE: Final = 0.09
MAX_BATCH: Final = 8
LOAD: Final = 0.9
LOAD_IN_TROUBLE: Final = 0.6
"""So that the two other pods can take it."""

PRESENT: Final = Network(hop_s=0.001, report_every_s=0.02, report_delay_s=0.002)
AT_ONCE: Final = Network(hop_s=0.0, report_every_s=0.002, report_delay_s=0.0)
STALE: Final = PRESENT._replace(report_delay_s=5.0)
TROUBLE_S: Final = (20.0, 40.0)

ALL_KNOWN = f"{DEFAULT}, all known at once"
ALL_KEPT = f"{DEFAULT}, nothing shed for others"
ONE_POD, SHARED, KUBE_PROXY = "one pod with all cores", "one queue for all pods", "kube-proxy"
FRESH, OLD = "none", "reports 5 s old"


def _mix(tight_ms: float, payload_bytes: int) -> tuple[SloClass, ...]:
    return (
        SloClass(name="tight", share=0.3, slo_ms=tight_ms, payload_bytes=payload_bytes),
        SloClass(name="loose", share=0.7, slo_ms=1000, payload_bytes=payload_bytes),
    )


MIXES: Final = {"wide": _mix(500, 50_000), "tight": _mix(300, 20_000)}
ARRIVALS: Final = ("poisson", "burst")

OURS: Final = Fronts(DEFAULT, second_try=True, at_header=True)

WAYS: Final[dict[str, Fronts]] = {
    KUBE_PROXY: Fronts(None, retries=0),
    f"{KUBE_PROXY}, second try": Fronts(None, retries=0, second_try=True),
    f"{KUBE_PROXY}, hand-over": Fronts(None, retries=0, hand_over=True),
    f"{KUBE_PROXY}, stealing": Fronts(None, retries=0, steal=True),
    **{rule: replace(OURS, rule=rule) for rule in RULES},
    f"{DEFAULT}, no second try": replace(OURS, second_try=False),
    f"{DEFAULT}, hand-over": replace(OURS, hand_over=True),
    f"{DEFAULT}, stealing": replace(OURS, steal=True),
    f"{DEFAULT}, after the body": replace(OURS, at_header=False),
    ALL_KNOWN: replace(OURS, at_header=False),
    ALL_KEPT: OURS,
    f"{DEFAULT}, two fronts": replace(OURS, count=2),
}
"""What stands before the pods while nothing fails."""

IN_TROUBLE: Final[dict[str, Fronts]] = {
    KUBE_PROXY: Fronts(None, count=2, retries=0),
    **{rule: replace(OURS, rule=rule, count=2) for rule in ("least-outstanding", "least-queue", DEFAULT)},
}
"""What is compared while something fails."""


class Case(NamedTuple):
    """One run; `way` is a key of `WAYS` or, with trouble, of `IN_TROUBLE`, or one of the bounds."""

    mix: str
    arrivals: str
    way: str
    trouble: str
    seed: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of several seeds together."""

    mix: str
    arrivals: str
    way: str
    trouble: str
    sent: int
    missed: int
    failed: int
    moved: int
    p50_ms: float
    p99_ms: float

    @property
    def missed_percent(self) -> float:
        """Requests without an answer in time."""
        return 100 * self.missed / self.sent


def capacity_rps() -> float:
    """Requests per second that the pods answer in full batches."""
    return PODS * (CORES - OVERHEAD) * MAX_BATCH / MODEL.latency(MAX_BATCH, 1)


def schedule(case: Case) -> list[Request]:
    """What comes, the same whatever stands before the pods."""
    rate = (LOAD_IN_TROUBLE if case.trouble in FAULTS else LOAD) * capacity_rps()
    sent_at = load_arrivals(case.arrivals, rate, case.duration_s, case.seed, os.environ)
    scenario = Scenario(name=case.mix, profile=PROFILE.name, rate_rps=rate, classes=MIXES[case.mix])
    return scenario.requests(sent_at, load_bandwidth("4g", 1, os.environ), case.seed)


def run(case: Case) -> tuple[int, int, int, int, tuple[float, ...]]:
    """Sent, missed, failed and moved requests of one run, and the latencies of the answered ones in seconds."""
    requests = schedule(case)
    draw = random.Random(case.seed)
    rate = LOAD * capacity_rps()
    if case.way in (ONE_POD, SHARED):
        replicas = 1 if case.way == ONE_POD else PODS
        cores, overhead = PODS * CORES / replicas, PODS * OVERHEAD / replicas
        service = Service(MODEL, 1.0, rate, MAX_BATCH, cores, cores, CORES, replicas, overhead_cores=overhead)
        cluster = ClusterModel(case.duration_s, service_ratio=lambda: draw.gauss(1.0, NOISE), by_periods=True)
        # Below the capacity, what pods shed for others costs more than it gives: the bound is without it.
        dispatch = MoldableEdf() if replicas == 1 else Ablated(sacrifice=False)
        bound = simulate(requests, service, Static(service, cores, replicas), dispatch, cluster)
        return bound.sent, bound.sent - bound.in_time, 0, 0, bound.latencies_s
    service = Service(MODEL, 1.0, rate, MAX_BATCH, CORES, CORES, CORES, PODS, overhead_cores=OVERHEAD)
    faults = tuple(Fault(kind, *TROUBLE_S) for kind in FAULTS if kind == case.trouble)
    network = STALE if case.trouble == OLD else AT_ONCE if case.way == ALL_KNOWN else PRESENT
    makes: Callable[[], Dispatcher] = partial(Ablated, sacrifice=False) if case.way == ALL_KEPT else MoldableEdf
    site = Site(service, PODS, makes, lambda launch: launch.work_s * draw.gauss(1.0, NOISE), network, faults, True)
    fronts = (WAYS if case.trouble == FRESH else IN_TROUBLE)[case.way]
    found = simulate_fronts(requests, site, fronts, case.seed)
    return found.sent, found.missed, found.failed, found.moved, found.latencies_s


def cases(seeds: int, duration_s: float, mixes: Sequence[str] = tuple(MIXES)) -> list[Case]:
    """Every way without trouble; then, on the first mix, those to compare in each trouble."""
    calm = [(mix, arrivals, way, FRESH) for mix in mixes for arrivals in ARRIVALS for way in (ONE_POD, SHARED, *WAYS)]
    troubled = [
        (mixes[0], arrivals, way, trouble) for arrivals in ARRIVALS for trouble in (*FAULTS, OLD) for way in IN_TROUBLE
    ]
    return [Case(*each, seed, duration_s) for each in calm + troubled for seed in range(1, seeds + 1)]


def summarise(given: Sequence[Case], runs: Sequence[tuple[int, int, int, int, tuple[float, ...]]]) -> list[Found]:
    """The seeds of each case together."""
    groups: dict[tuple[str, str, str, str], list[tuple[int, int, int, int, tuple[float, ...]]]] = {}
    for case, one in zip(given, runs, strict=True):
        groups.setdefault((case.mix, case.arrivals, case.way, case.trouble), []).append(one)
    found = []
    for key, group in groups.items():
        sent, missed, failed, moved, latencies_s = zip(*group, strict=True)
        p50, p99 = (float(x) * 1000 for x in np.percentile(list(chain.from_iterable(latencies_s)), (50, 99)))
        counts = (sum(sent), sum(missed), sum(failed), sum(moved))
        found.append(Found(*key, *counts, round(p50, 1), round(p99, 1)))
    return found


def shown(title: str, rows: Sequence[Found], columns: Sequence[tuple[str, str]]) -> Table:
    """Missed requests: a line for each way, a column for each pair of mix or trouble, and arrivals."""
    table = new_table(title, ["before the pods"], [f"{first}, {arrivals}" for first, arrivals in columns])
    for way in dict.fromkeys(row.way for row in rows):
        cells = []
        for first, arrivals in columns:
            own = [r for r in rows if r.way == way and r.arrivals == arrivals and first in (r.mix, r.trouble)]
            cells.append(f"{own[0].missed_percent:.2f} ({own[0].missed})" if own else "")
        table.add_row(way, *cells)
    return table


def draw_on(figure: Figure, rows: Sequence[Found]) -> None:
    """Missed requests by what stands before the pods: left while nothing fails, right in each trouble."""
    calm, troubled = figure.subplots(1, 2, width_ratios=(3, 2))
    own = [row for row in rows if row.trouble == FRESH and row.mix == next(iter(MIXES))]
    ways = list(dict.fromkeys(row.way for row in own))
    for offset, arrivals in enumerate(ARRIVALS):
        values = [next(r.missed_percent for r in own if r.way == way and r.arrivals == arrivals) for way in ways]
        places = [place + 0.4 * offset for place in range(len(ways))]
        calm.barh(places, values, 0.4, color=(SPONGE, SOFT)[offset], label=arrivals)
    calm.set_yticks([place + 0.2 for place in range(len(ways))], ways)
    calm.invert_yaxis()
    calm.set_xscale("symlog", linthresh=0.01)
    calm.set_xlabel("missed, % (mix 'wide')")
    calm.legend(frameon=False)
    kinds = [*FAULTS, OLD]
    for offset, way in enumerate(IN_TROUBLE):
        values = [
            sum(r.missed for r in rows if (r.trouble, r.way) == (kind, way))
            / sum(r.sent for r in rows if (r.trouble, r.way) == (kind, way))
            for kind in kinds
        ]
        places = [place + 0.2 * offset for place in range(len(kinds))]
        colour = SPONGE if way == DEFAULT else ("#c8372d", "#c8772d", SOFT)[offset]
        troubled.barh(places, [100 * value for value in values], 0.2, color=colour, label=way)
    troubled.set_yticks([place + 0.3 for place in range(len(kinds))], kinds)
    troubled.invert_yaxis()
    troubled.set_xlabel("missed, %, two fronts")
    troubled.legend(frameon=False, fontsize=7)


def main() -> None:
    """Runs everything; prints two tables, writes JSON and a plot."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    given = cases(1, 45.0, ("wide",)) if options.short else cases(options.seeds, options.duration_s)
    rows = summarise(given, run_all(run, given, options.processes))
    calm, troubled = ([row for row in rows if (row.trouble == FRESH) is nothing] for nothing in (True, False))
    out = Console(width=200)
    mixes = dict.fromkeys(row.mix for row in calm)
    out.print(shown("missed, % (requests)", calm, [(mix, arrivals) for mix in mixes for arrivals in ARRIVALS]))
    for arrivals in ARRIVALS:
        title = f"two fronts, mix {troubled[0].mix}: missed, % (requests)"
        out.print(shown(title, troubled, [(kind, arrivals) for kind in (*FAULTS, OLD)]))
    document = {
        "capacity_rps": capacity_rps(),
        "load": LOAD,
        "load_in_trouble": LOAD_IN_TROUBLE,
        "rows": [asdict(row) for row in rows],
    }
    save(options.out, "front_rules", document, lambda figure: draw_on(figure, rows))


if __name__ == "__main__":
    main()
