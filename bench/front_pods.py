"""Measures what a front makes of three small pods, beside kube-proxy and beside one pod with all their cores.

It is `bench.experiments.front` with real servers, Envoy and picker. Four servers have CPU cgroups of their own: three
of `--cores`, and one that has as much as they have together. What the three answer in full batches, while more requests
wait and come, is the capacity, the same that the experiment takes from its latency model. It is measured first. By as
much as it is below the experiment's everything is slower: the requests of the same seed come, at 0.9 of the capacity,
with all times (distances, SLOs, uploads, bursts) multiplied by that. So the SLOs are the same multiples of the time of
a batch, whatever the model and the machine. With a slow model the load and the front take a small part of the machine,
and the kernel's periods of 100 ms are a small part of a batch.

The requests are dealt out at random, as kube-proxy does with each connection; by a front (`--rule random`: chance, but
by a front); and to the one server. All get the same requests, one after the other, and each seed begins with another
one. Then the capacity is measured anew: "load" is what was offered over the mean of both. "busy" is the share of their
quota that the servers used, "simulated" what the same requests miss in virtual time, "in turn" how many a front sent on
without its rule, because the picker had not answered within 8 ms.

Each seed of each mix and kind of arrivals is a line of a file in `--out`, and is not measured again. With `--most` a
call stops after so many of them, and the next one goes on: two take four minutes.

    python -m bench.front_pods                        # needs root, for the cgroups
    python -m bench.front_pods --mixes tight --arrivals poisson --most 2
    python -m bench.front_pods --short
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np
from rich.console import Console

from bench.experiments import front as virtual
from bench.experiments.front import ARRIVALS, KUBE_PROXY, LOAD, MIXES, ONE_POD, PODS
from bench.live_front import LiveFront, front_of
from bench.live_server import LiveServer
from bench.options import arguments, at_least_one, positive
from bench.results import BLUE, INK, SPONGE, Percentiles, new_table, save
from bench.serving.ledger import Ledger
from sponge_client.client import SpongeClient
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody, ModelMetadata
from sponge_client.outcomes import RequestRecord
from sponge_client.payloads import image_bodies
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.routing.registry import DEFAULT, RuleName
from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.files import load_bandwidth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL, SOURCE = "resnet34", "torchvision://resnet34?weights=none"

CLIENTS: Final = 16
"""Requests of each server at once while its capacity is measured: two full batches."""
CROWD_S: Final = 2.5
CROWDED: Final = 1.1
"""Times what a crowd of clients gets come while the capacity is measured, so that there are always full batches."""
PATIENT_S: Final = 60.0
WARM_UP_S, CAPACITY_S = 2.0, 7.0
QUIET_S: Final = 2.5


@dataclass(frozen=True, slots=True)
class Row:
    """One way to share the load, over all seeds.

    Attributes:
        load: what was offered over what the three pods answer in full batches.
        busy: share of their quota that the servers used.
        simulated_missed: of the same requests in virtual time.
        in_turn: requests that went to the pods in turn, because the picker did not answer in time.
    """

    mix: str
    arrivals: str
    way: str
    requests: int
    outcomes: dict[str, int]
    latency_ms: Percentiles  # of those that were answered
    load: float
    busy: float
    simulated_missed: int
    in_turn: int

    @classmethod
    def of(cls, mix: str, arrivals: str, way: str, results: Sequence[Mapping[str, Any]]) -> Row:
        own = [result["ways"][way] for result in results]
        outcomes: Counter[str] = Counter()
        for each in own:
            outcomes.update(each["outcomes"])
        return cls(
            mix,
            arrivals,
            way,
            outcomes.total(),
            dict(outcomes),
            Percentiles.of([ms / 1000 for each in own for ms in each["latency_ms"]]),
            float(np.mean([result["offered_rps"] / np.mean(result["capacity_rps"]) for result in results])),
            float(np.mean([each["busy"] for each in own])),
            sum(each["simulated_missed"] for each in own),
            sum(each["in_turn"] for each in own),
        )

    @property
    def missed(self) -> int:
        return self.requests - self.outcomes.get("in_time", 0)


class Case(NamedTuple):
    """What every way gets: the requests of the experiment in virtual time, `slower` times as slow."""

    mix: str
    arrivals: str
    seed: int
    seconds: float
    slower: float

    def virtual(self, way: str) -> virtual.Case:
        return virtual.Case(self.mix, self.arrivals, way, virtual.FRESH, self.seed, self.seconds / self.slower)

    def schedule(self, bodies: int) -> Schedule:
        """The requests, with one of so many bodies each."""
        requests = sorted(virtual.schedule(self.virtual(KUBE_PROXY)), key=lambda request: (request.sent, request.id))
        chosen = np.random.default_rng(self.seed).integers(0, bodies, len(requests)).tolist()
        shots = (
            Shot(number, self.slower * request.sent, self.slower * (request.deadline - request.sent), body)
            for number, (request, body) in enumerate(zip(requests, chosen, strict=True))
        )
        return Schedule(tuple(shots), self.seconds)

    def uplink(self) -> BandwidthTrace | None:
        """The recorded one; payloads are larger instead."""
        found = load_bandwidth("4g", 1, os.environ)
        return found and BandwidthTrace(
            found.name, found.bytes_per_s, tuple(self.slower * length for length in found.durations_s)
        )

    def bodies(self, model: ModelMetadata) -> list[InferBody]:
        return image_bodies(model, round(self.slower * MIXES[self.mix][0].payload_bytes))


class Site(NamedTuple):
    """The servers, and what their model takes."""

    pods: Sequence[LiveServer]
    whole: LiveServer
    model: ModelMetadata


def dealt(planned: Schedule, pods: int, seed: int) -> list[Schedule]:
    """The same requests, each at one of the pods at random."""
    draw = random.Random(seed)
    places = [draw.randrange(pods) for _ in planned.shots]
    return [
        Schedule(
            tuple(shot for shot, place in zip(planned.shots, places, strict=True) if place == pod), planned.duration_s
        )
        for pod in range(pods)
    ]


async def send(
    urls: Sequence[str], planned: Sequence[Schedule], bodies: Sequence[InferBody], uplink: BandwidthTrace | None
) -> list[RequestRecord]:
    """One run: each URL gets its schedule, at the same time. Then a pause, so that the queues are empty again."""
    runs = [
        LoadRun(url, MODEL, each, bodies, uplink, timeout_s=5.0, reuse=False)
        for url, each in zip(urls, planned, strict=True)
    ]
    await asyncio.gather(*(run.run() for run in runs))
    await asyncio.sleep(QUIET_S)
    return [record for run in runs for record in run.records]


async def metadata_of(server: LiveServer) -> ModelMetadata:
    async with SpongeClient(server.url) as client:
        return await client.metadata(server.model)


async def crowd(servers: Sequence[LiveServer], bodies: Sequence[InferBody]) -> float:
    """Answers per second while clients send one request after the other to each server: a guess of the capacity."""
    answered = 0

    async def follow(server: LiveServer, number: int) -> None:
        nonlocal answered
        async with SpongeClient(server.url) as client:
            while True:
                await client.infer_body(server.model, bodies[number % len(bodies)], PATIENT_S)
                answered += 1

    tasks = [asyncio.create_task(follow(server, number)) for server in servers for number in range(CLIENTS)]
    await asyncio.sleep(CROWD_S)
    before = answered
    await asyncio.sleep(CROWD_S)
    rate = (answered - before) / CROWD_S
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return rate


async def capacity(servers: Sequence[LiveServer], bodies: Sequence[InferBody], about: float) -> float:
    """Answers per second of all servers together in full batches, while more requests wait and come one by one.

    Args:
        about: a guess of it, not far below.
    """
    seconds = WARM_UP_S + CAPACITY_S
    draw = np.random.default_rng(1)
    planned = []
    for _ in servers:
        count = round(CROWDED * about / len(servers) * seconds)
        times = [0.0] * CLIENTS + sorted(draw.uniform(0.0, seconds, count).tolist())
        planned.append(Schedule(tuple(Shot(i, at, PATIENT_S, i % len(bodies)) for i, at in enumerate(times)), seconds))
    runs = [
        LoadRun(server.url, MODEL, each, bodies, reuse=False) for server, each in zip(servers, planned, strict=True)
    ]
    await asyncio.gather(*(run.run() for run in runs))
    await asyncio.sleep(QUIET_S)
    return sum(answer_rate(run.records, WARM_UP_S, seconds) for run in runs)


def answer_rate(records: Sequence[RequestRecord], from_s: float, until_s: float) -> float:
    """Answers per second of one server in a part of a run, in which it always had a full batch to do.

    Answers come a batch at a time, so it is the slope of their number over time: how many fall into the part depends on
    when a batch ends by chance.
    """
    times = sorted(record.at_s + record.latency_s for record in records)
    within = [at for at in times if from_s <= at < until_s]
    return linear_regression(within, range(len(within))).slope


@contextlib.contextmanager
def running(options: Namespace, runner: asyncio.Runner) -> Iterator[Site]:
    """Context with all servers. The large one measures the profile; the others are given it and start side by side."""
    token, facts = secrets.token_hex(8), {"model": MODEL, "source": options.source}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(PODS) as threads:
        whole = LiveServer(PODS * options.cores, "--max-batch", "8", number=PODS, **facts)
        profile = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sponge-bench-"))) / "profile.yaml"
        profile.write_text(stack.enter_context(whole).profile().profile or "", encoding="utf-8")
        size = ("--max-batch", "8", "--profile", str(profile))
        pods = [LiveServer(options.cores, *size, number=number, token=token, **facts) for number in range(PODS)]
        for started in [threads.submit(stack.enter_context, pod) for pod in pods]:
            started.result()
        yield Site(pods, whole, runner.run(metadata_of(whole)))


def ways_of(options: Namespace) -> tuple[str, ...]:
    """The names of the ways, as the experiment in virtual time has them."""
    return KUBE_PROXY, options.rule, ONE_POD


def measure(site: Site, way: str, rule: RuleName, case: Case, runner: asyncio.Runner) -> dict[str, Any]:
    """Sends the requests one way."""
    bodies, uplink = case.bodies(site.model), case.uplink()
    planned = case.schedule(len(bodies))
    servers = [site.whole] if way == ONE_POD else site.pods
    in_turn: Callable[[], int] = int
    with contextlib.ExitStack() as stack:
        urls, hands = [servers[0].url], [planned]
        if way == KUBE_PROXY:
            urls, hands = [pod.url for pod in servers], dealt(planned, PODS, case.seed)
        elif way != ONE_POD:
            front = stack.enter_context(front_of(servers, rule))
            prefer(front)
            in_turn = front.in_turn
            urls = [f"http://127.0.0.1:{front.http}"]
        before_s = sum(server.cpu_s() for server in servers)
        records = runner.run(send(urls, hands, bodies, uplink))
        used_s = sum(server.cpu_s() for server in servers) - before_s
        turns = in_turn()
    return {
        "outcomes": Counter(each.outcome for each in records),
        "latency_ms": [round(1000 * each.latency_s, 1) for each in records if each.outcome in ("in_time", "late")],
        "missed": [
            (round(each.at_s, 3), round(each.slo_s, 3), each.outcome, round(each.latency_s, 3))
            for each in records
            if each.outcome != "in_time"
        ],
        "busy": used_s / (max(each.at_s + each.latency_s for each in records) * sum(each.cores for each in servers)),
        "in_turn": turns,
        "simulated_missed": virtual.run(case.virtual(way))[1],
    }


def prefer(front: LiveFront) -> None:
    """Lets its processes run before all others, as the load does: in a cluster the pods are not on the front's cores.

    With a niceness of -10, one pick in ten came more than 20 ms late beside three busy servers.
    """
    priority = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
    for process in (front.envoy, front.picker):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, priority)


def complete(options: Namespace, cases: Sequence[Mapping[str, Any]], ledger: Ledger) -> None:
    """Measures these cases, named as in the ledger; the capacity before, between and after them."""
    ways = ways_of(options)
    with asyncio.Runner(loop_factory=precise_loop) as runner, running(options, runner) as site:
        small = image_bodies(site.model, None)
        full = runner.run(capacity(site.pods, small, runner.run(crowd(site.pods, small))))
        for params in cases:
            mix, arrivals, seed = (params[name] for name in ("mix", "arrivals", "seed"))
            case = Case(mix, arrivals, seed, options.seconds, virtual.capacity_rps() / full)
            first = seed % len(ways)
            found = {way: measure(site, way, options.rule, case, runner) for way in ways[first:] + ways[:first]}
            again = runner.run(capacity(site.pods, small, full))
            result = {"capacity_rps": [full, again], "offered_rps": LOAD * full, "slower": case.slower, "ways": found}
            ledger.add("front_pods", params, result)
            full = again


def size_of(options: Namespace) -> dict[str, Any]:
    """What runs must share to be summed up."""
    return {"cores": options.cores, "source": options.source, "rule": options.rule, "seconds": options.seconds}


def rows_of(options: Namespace, ledger: Ledger) -> list[Row]:
    """What the ledger has of this size."""
    found = []
    for mix, arrivals in product(MIXES, ARRIVALS):
        runs = ledger.of_kind("front_pods", mix=mix, arrivals=arrivals, **size_of(options))
        if runs:
            results = [run["result"] for run in runs]
            found += [Row.of(mix, arrivals, way, results) for way in ways_of(options)]
    return found


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the missed requests of each way, by mix and arrivals."""
    colours = (INK, SPONGE, BLUE)
    cases = list(dict.fromkeys((row.mix, row.arrivals) for row in rows))
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        own = [row for row in rows if (row.mix, row.arrivals) == case]
        axes.bar([row.way for row in own], [100 * row.missed / row.requests for row in own], color=colours[: len(own)])
        axes.tick_params(axis="x", rotation=80)
        axes.set_title(", ".join(case))
    figure.supylabel(f"missed, %, of {PODS} servers at {LOAD:g} of their capacity")


def main() -> None:
    """Measures what is missing, writes and prints what there is."""
    parser = arguments(__doc__)
    parser.add_argument("--rule", choices=get_args(RuleName), default=DEFAULT)
    parser.add_argument("--cores", type=positive, default=virtual.CORES, help="of each server")
    parser.add_argument("--source", default=SOURCE, help="of the model, which takes images")
    parser.add_argument("--mixes", nargs="+", choices=tuple(MIXES), default=tuple(MIXES))
    parser.add_argument("--arrivals", nargs="+", choices=ARRIVALS, default=ARRIVALS)
    parser.add_argument("--seeds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=positive, default=21.0, help="of each schedule")
    parser.add_argument("--most", type=at_least_one, default=1_000, help="cases to measure in this call")
    options = parser.parse_args()
    if options.short:
        options.mixes, options.arrivals, options.seeds, options.seconds = ("tight",), ("poisson",), 1, 8.0
    prioritize_process()
    ledger = Ledger(options.out / "front_pods.jsonl")
    cases = [
        size_of(options) | {"mix": mix, "arrivals": arrivals, "seed": seed}
        for seed, mix, arrivals in product(range(1, options.seeds + 1), options.mixes, options.arrivals)
    ]
    missing = [case for case in cases if ledger.find("front_pods", case) is None]
    if missing:
        complete(options, missing[: options.most], ledger)
    rows = rows_of(options, ledger)
    table = new_table(
        f"{PODS} x {options.cores:g} cores",
        ["mix", "arrivals", "way"],
        ["load", "busy", "requests", "missed", "%", "simulated", "in turn", "by outcome", "p50 ms", "p99 ms"],
    )
    for row in rows:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items()) if name != "in_time")
        percent = f"{100 * row.missed / row.requests:.2f}"
        figures = (f"{row.load:.3f}", f"{row.busy:.3f}", str(row.requests), str(row.missed), percent)
        latency = (f"{row.latency_ms.p50:.0f}", f"{row.latency_ms.p99:.0f}")
        table.add_row(
            row.mix, row.arrivals, row.way, *figures, str(row.simulated_missed), str(row.in_turn), outcomes, *latency
        )
    Console(width=160).print(table)
    document = {"cores": options.cores, "source": options.source, "rows": [asdict(row) for row in rows]}
    save(options.out, "front_pods", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
