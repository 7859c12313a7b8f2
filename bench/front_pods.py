"""Measures what a front makes of three small pods, beside kube-proxy and beside one pod with all their cores.

Four servers in CPU cgroups of their own: three of `--cores`, and one that has as much as they have together. Requests
come at nine tenths of the rate at which the three answer while more of them come, over the recorded 4G uplink,
which uses up a part of each deadline. In the mix "wide" three in ten are due within 1 s and the others within 2 s
(50 KB each), in "tight" within 0.6 and 2 s (20 KB): for servers of 0.3 core the mixes of `bench.experiments.front`.
They come by a Poisson process, or all of a second at once. They are dealt out at random, as kube-proxy does with each
connection; by the rule of a front (`--rule random`: what the front itself does); and to the one server. All ways get
the same requests, one way after the other.

Every schedule of every way is a line of a file in `--out`, and is not measured again. With `--most` a call stops after
so many seeds, and the next one goes on.

    python -m bench.front_pods --cores 0.3            # needs root, for the cgroups; four minutes a seed
    python -m bench.front_pods --cores 0.3 --most 1
    python -m bench.front_pods --short
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np
from rich.console import Console

from bench.live_front import LiveFront, front_of
from bench.live_server import SOURCE, LiveServer
from bench.options import arguments, at_least_one, positive
from bench.results import BLUE, INK, SPONGE, Percentiles, new_table, save
from bench.serving.ledger import Ledger
from sponge_client.client import SpongeClient
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody
from sponge_client.outcomes import RequestRecord
from sponge_client.payloads import image_bodies
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.routing.registry import DEFAULT, RuleName
from sponge_workload.files import load_arrivals, load_bandwidth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PODS, CORES = 3, 0.5
LOAD: Final = 0.9
TIGHT_SHARE: Final = 0.3


class Mix(NamedTuple):
    """SLOs in seconds, and the size of a request."""

    tight_s: float
    loose_s: float
    payload_bytes: int


MIXES: Final = {"wide": Mix(1.0, 2.0, 50_000), "tight": Mix(0.6, 2.0, 20_000)}
ARRIVALS: Final = ("poisson", "burst")

CLIENTS: Final = 16
"""Of each server, one request after the other, for a first guess of the capacity: two full batches."""
CROWD_S: Final = 2.5
CROWDED: Final = 1.1
"""Times that guess come while the capacity is measured."""
PATIENT_S: Final = 60.0
WARM_UP_S, CAPACITY_S = 3.0, 9.0
QUIET_S: Final = 2.5

FRONT_NICENESS: Final = -10
"""The servers have ten times the usual weight; a front that they starve says nothing of its rule."""

RANDOM = "at random, as kube-proxy"
ONE_POD = "one pod with all cores"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to share the load, over all seeds."""

    mix: str
    arrivals: str
    way: str
    requests: int
    outcomes: dict[str, int]
    latency_ms: Percentiles  # of those that were answered

    @classmethod
    def of(cls, mix: str, arrivals: str, way: str, results: Sequence[Mapping[str, Any]]) -> Row:
        outcomes: Counter[str] = Counter()
        for result in results:
            outcomes.update(result["outcomes"])
        answered = [ms / 1000 for result in results for ms in result["latency_ms"]]
        return cls(mix, arrivals, way, outcomes.total(), dict(outcomes), Percentiles.of(answered))

    @property
    def missed(self) -> int:
        return self.requests - self.outcomes.get("in_time", 0)

    @property
    def missed_percent(self) -> float:
        return 100 * self.missed / self.requests


class Site(NamedTuple):
    """The servers, and the requests of each mix to their model."""

    pods: Sequence[LiveServer]
    whole: LiveServer
    bodies: dict[str, list[InferBody]]


def schedule(mix: Mix, arrivals: str, rate: float, seconds: float, seed: int, bodies: int) -> Schedule:
    """The requests that every way gets."""
    times = load_arrivals(arrivals, rate, seconds, seed, os.environ)
    draw = np.random.default_rng(seed)
    slos = [mix.tight_s if tight else mix.loose_s for tight in draw.random(len(times)) < TIGHT_SHARE]
    shots = zip(times, slos, draw.integers(0, bodies, len(times)).tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, slo, body) for i, (at, slo, body) in enumerate(shots)), seconds)


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
    urls: Sequence[str], model: str, planned: Sequence[Schedule], bodies: Sequence[InferBody]
) -> list[RequestRecord]:
    """One run: each URL gets its schedule, at the same time. Then a pause, so that the queues are empty again."""
    uplink = load_bandwidth("4g", 1, os.environ)
    runs = [
        LoadRun(url, model, each, bodies, uplink, timeout_s=5.0, reuse=False)
        for url, each in zip(urls, planned, strict=True)
    ]
    await asyncio.gather(*(run.run() for run in runs))
    await asyncio.sleep(QUIET_S)
    return [record for run in runs for record in run.records]


async def bodies_of(server: LiveServer) -> dict[str, list[InferBody]]:
    """Requests to its model, for each mix."""
    async with SpongeClient(server.url) as client:
        metadata = await client.metadata(server.model)
    return {name: image_bodies(metadata, mix.payload_bytes) for name, mix in MIXES.items()}


async def capacity(servers: Sequence[LiveServer], bodies: Sequence[InferBody]) -> float:
    """Answers per second of all servers together while more requests come than they answer.

    They come one by one over the uplink, as in the runs: a request that comes alone takes more of a small server than
    one in a crowd.
    """
    about = await _of_a_crowd(servers, bodies)
    seconds = WARM_UP_S + CAPACITY_S
    times = load_arrivals("poisson", CROWDED * about, seconds, 1, os.environ)
    planned = Schedule(tuple(Shot(i, at, PATIENT_S, i % len(bodies)) for i, at in enumerate(times)), seconds)
    uplink = load_bandwidth("4g", 1, os.environ)
    runs = [
        LoadRun(server.url, server.model, hand, bodies, uplink, reuse=False)
        for server, hand in zip(servers, dealt(planned, len(servers), 1), strict=True)
    ]
    tasks = [asyncio.create_task(run.run()) for run in runs]
    await asyncio.sleep(WARM_UP_S)
    before = sum(len(run.records) for run in runs)
    await asyncio.sleep(CAPACITY_S)
    rate = (sum(len(run.records) for run in runs) - before) / CAPACITY_S
    await asyncio.gather(*tasks)
    await asyncio.sleep(QUIET_S)
    return rate


async def _of_a_crowd(servers: Sequence[LiveServer], bodies: Sequence[InferBody]) -> float:
    """Answers per second while clients send one request after the other to each server."""
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


@contextlib.contextmanager
def running(options: Namespace, runner: asyncio.Runner) -> Iterator[Site]:
    """Context with all servers. They start side by side, as a small one takes long to start."""
    size, token = ("--max-batch", "8"), secrets.token_hex(8)
    servers = [
        LiveServer(options.cores, *size, number=number, token=token, source=options.source) for number in range(PODS)
    ]
    servers.append(LiveServer(PODS * options.cores, *size, number=PODS, source=options.source))
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(servers)) as threads:
        for started in [threads.submit(stack.enter_context, server) for server in servers]:
            started.result()
        yield Site(servers[:PODS], servers[PODS], runner.run(bodies_of(servers[0])))


def ways_of(options: Namespace) -> tuple[str, ...]:
    """The names of the ways, in the order in which they are measured."""
    return RANDOM, f"front, {options.rule}", ONE_POD


def measure(
    site: Site,
    way: str,
    rule: RuleName,
    planned: Schedule,
    bodies: Sequence[InferBody],
    seed: int,
    runner: asyncio.Runner,
) -> list[RequestRecord]:
    """Sends a schedule one way."""
    pods, model = site.pods, site.whole.model
    if way == RANDOM:
        return runner.run(send([pod.url for pod in pods], model, dealt(planned, PODS, seed), bodies))
    if way == ONE_POD:
        return runner.run(send([site.whole.url], model, [planned], bodies))
    with front_of(pods, rule) as front:
        prefer(front)
        return runner.run(send([f"http://127.0.0.1:{front.http}"], model, [planned], bodies))


def prefer(front: LiveFront) -> None:
    """Lets its processes run before others, as the servers do."""
    for process in (front.envoy, front.picker):
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), FRONT_NICENESS)


def complete(options: Namespace, seed: int, ledger: Ledger) -> bool:
    """Measures what the ledger lacks of a seed, at the rate of what it has; returns whether anything was missing."""
    own = size_of(options) | {"seed": seed}
    cases = [
        {"mix": mix, "arrivals": arrivals, "way": way}
        for mix, arrivals, way in product(MIXES, ARRIVALS, ways_of(options))
    ]
    missing = [case for case in cases if ledger.find("front", own | case) is None]
    if not missing:
        return False
    before = ledger.of_kind("front", **own)
    with asyncio.Runner(loop_factory=precise_loop) as runner, running(options, runner) as site:
        full = before[0]["result"]["capacity_rps"] if before else runner.run(capacity(site.pods, site.bodies["wide"]))
        for case in missing:
            bodies = site.bodies[case["mix"]]
            mix, arrivals = MIXES[case["mix"]], case["arrivals"]
            planned = schedule(mix, arrivals, LOAD * full, options.seconds, seed, len(bodies))
            records = measure(site, case["way"], options.rule, planned, bodies, seed, runner)
            answered = [each.latency_s for each in records if each.outcome in ("in_time", "late")]
            result = {
                "capacity_rps": full,
                "outcomes": Counter(each.outcome for each in records),
                "latency_ms": [round(1000 * each, 1) for each in answered],
            }
            ledger.add("front", own | case, result)
    return True


def size_of(options: Namespace) -> dict[str, Any]:
    """What runs must share to be summed up."""
    return {"cores": options.cores, "source": options.source, "seconds": options.seconds}


def rows_of(options: Namespace, ledger: Ledger) -> list[Row]:
    """What the ledger has of this size."""
    found = []
    for mix, arrivals, way in product(MIXES, ARRIVALS, ways_of(options)):
        runs = ledger.of_kind("front", mix=mix, arrivals=arrivals, way=way, **size_of(options))
        if runs:
            found.append(Row.of(mix, arrivals, way, [run["result"] for run in runs]))
    return found


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the missed requests of each way, by mix and arrivals."""
    colours = (INK, SPONGE, BLUE)
    cases = list(dict.fromkeys((row.mix, row.arrivals) for row in rows))
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        own = [row for row in rows if (row.mix, row.arrivals) == case]
        axes.bar([row.way for row in own], [row.missed_percent for row in own], color=colours[: len(own)])
        axes.tick_params(axis="x", rotation=80)
        axes.set_title(", ".join(case))
    figure.supylabel(f"missed, %, of {PODS} servers at {LOAD:g} of their capacity")


def main() -> None:
    """Measures what is missing, writes and prints what there is."""
    parser = arguments(__doc__)
    parser.add_argument("--rule", choices=get_args(RuleName), default=DEFAULT)
    parser.add_argument("--cores", type=positive, default=CORES, help="of each server; leave some for load and front")
    parser.add_argument("--source", default=SOURCE, help="of the model; a slower one needs fewer requests")
    parser.add_argument("--seeds", type=at_least_one, default=3)
    parser.add_argument("--seconds", type=positive, default=12.0, help="of each schedule")
    parser.add_argument("--most", type=at_least_one, default=1_000, help="seeds to measure in this call")
    options = parser.parse_args()
    if options.short:
        options.seeds, options.seconds = 1, 5.0
    prioritize_process()
    ledger = Ledger(options.out / "front_pods.jsonl")
    measured = 0
    for seed in range(1, options.seeds + 1):
        if measured < options.most and complete(options, seed, ledger):
            measured += 1
    rows = rows_of(options, ledger)
    table = new_table(
        f"{PODS} x {options.cores:g} cores",
        ["mix", "arrivals", "way"],
        ["requests", "missed", "%", "by outcome", "p50 ms", "p99 ms"],
    )
    for row in rows:
        outcomes = ", ".join(f"{count} {name}" for name, count in sorted(row.outcomes.items()) if name != "in_time")
        latency = (f"{row.latency_ms.p50:.0f}", f"{row.latency_ms.p99:.0f}")
        figures = (str(row.requests), str(row.missed), f"{row.missed_percent:.2f}", outcomes, *latency)
        table.add_row(row.mix, row.arrivals, row.way, *figures)
    Console(width=140).print(table)
    document = {"cores": options.cores, "source": options.source, "rows": [asdict(row) for row in rows]}
    save(options.out, "front_pods", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
