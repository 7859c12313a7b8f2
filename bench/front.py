"""Measures a front before real servers: what it adds to a request, and what it makes of three small pods.

First one request after the other to a trivial model, straight to its server and through a front: the difference is
what the front adds, and the CPU time of Envoy and of the picker is what it costs.

Then three servers of half a core each, in CPU cgroups of their own, at nine tenths of the rate at which
they answer: Poisson arrivals, half due after one second and half after two. The requests are dealt out at random, as
kube-proxy does with each connection; at random and by the front's rule, both through the front; and one server has all
the cores. All ways get the same requests.

    python -m bench.front           # needs root, for the cgroups; some four minutes
    python -m bench.front --short
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from rich.console import Console

from bench.http_overhead import SMALL, WARM_UP, Caller
from bench.live_front import LiveFront, pod_option
from bench.live_server import SOURCE, LiveServer, process_cpu_s
from bench.options import arguments, at_least_one, positive
from bench.results import BAD, BLUE, INK, SPONGE, Percentiles, new_table, save
from sponge_client.client import SpongeClient
from sponge_client.load import LoadRun
from sponge_client.oip import InferBody
from sponge_client.outcomes import RequestRecord
from sponge_client.payloads import image_bodies
from sponge_client.schedule import Schedule, Shot
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.routing.registry import DEFAULT, RuleName
from sponge_workload.arrivals import poisson_arrivals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PODS, CORES = 3, 0.5
LOAD = 0.9
SLOS_S = (1.0, 2.0)
LOOSE_S = 60.0
QUIET_S = 2.5

RANDOM = "at random, as kube-proxy"
FRONT_RANDOM = "front, at random"
ONE_POD = "one pod"


@dataclass(frozen=True, slots=True)
class Added:
    """One way to a trivial model: the latency of its requests, and the CPU time that each took in the front."""

    way: str
    latency_ms: Percentiles
    envoy_cpu_ms: float
    picker_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One way to share the load, over all seeds."""

    way: str
    requests: int
    missed: int
    latency_ms: Percentiles  # of those that were answered

    @classmethod
    def of(cls, way: str, records: Sequence[RequestRecord]) -> Row:
        answered = [each.latency_s for each in records if each.outcome in ("in_time", "late") and each.latency_s]
        missed = sum(each.outcome != "in_time" for each in records)
        return cls(way, len(records), missed, Percentiles.of(answered))

    @property
    def missed_share(self) -> float:
        return self.missed / self.requests


def front_of(servers: Sequence[LiveServer], rule: RuleName) -> LiveFront:
    """A front before these servers, which share a token."""
    pods = [pod_option(server.url, server.grpc, server.control_url) for server in servers]
    return LiveFront(pods, servers[0].token_file, "--rule", rule)


def measure_added(requests: int) -> list[Added]:
    """Sends requests one after the other, straight and through the front in turns, so that both see the same noise."""
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


def schedule(rate: float, seconds: float, seed: int, bodies: int) -> Schedule:
    """The requests that every way gets."""
    draw = np.random.default_rng(seed)
    times = poisson_arrivals(rate, seconds, seed)
    slos, chosen = draw.integers(0, len(SLOS_S), len(times)), draw.integers(0, bodies, len(times))
    shots = zip(times, slos.tolist(), chosen.tolist(), strict=True)
    return Schedule(tuple(Shot(i, at, SLOS_S[slo], body) for i, (at, slo, body) in enumerate(shots)), seconds)


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
    runs = [
        LoadRun(url, model, each, bodies, timeout_s=5.0, reuse=False) for url, each in zip(urls, planned, strict=True)
    ]
    await asyncio.gather(*(run.run() for run in runs))
    await asyncio.sleep(QUIET_S)
    return [record for run in runs for record in run.records]


async def bodies_of(server: LiveServer) -> list[InferBody]:
    """Requests to its model."""
    async with SpongeClient(server.url) as client:
        return image_bodies(await client.metadata(server.model), None)


async def capacity(servers: Sequence[LiveServer], bodies: Sequence[InferBody], cores: float, seconds: float) -> float:
    """Answers per second of all servers together while requests wait at each, after two seconds."""
    count = round(100 * cores * seconds)
    crowd = Schedule(tuple(Shot(i, 0.0, LOOSE_S, i % len(bodies)) for i in range(count)), seconds)
    runs = [LoadRun(server.url, server.model, crowd, bodies, timeout_s=1.0) for server in servers]
    tasks = [asyncio.create_task(run.run()) for run in runs]
    await asyncio.sleep(2.0)
    before = sum(len(run.records) for run in runs)
    await asyncio.sleep(seconds)
    rate = (sum(len(run.records) for run in runs) - before) / seconds
    await asyncio.gather(*tasks)
    return rate


def measure_shared(options: Namespace, seeds: int, seconds: float) -> tuple[float, list[Row]]:
    """The rate, and how each way fares at it."""
    size = ("--max-batch", "8")
    rules: list[tuple[str, RuleName]] = [(FRONT_RANDOM, "random"), (f"front, {options.rule}", options.rule)]
    rows = []
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack, asyncio.Runner(loop_factory=precise_loop) as runner:
        servers = [
            stack.enter_context(LiveServer(options.cores, *size, number=pod, token=token, source=options.source))
            for pod in range(PODS)
        ]
        bodies = runner.run(bodies_of(servers[0]))
        rate = options.rate or LOAD * runner.run(capacity(servers, bodies, options.cores, options.capacity_s))
        planned = [schedule(rate, seconds, seed, len(bodies)) for seed in range(1, seeds + 1)]
        urls = [server.url for server in servers]
        records = [
            record
            for seed, each in enumerate(planned)
            for record in runner.run(send(urls, servers[0].model, dealt(each, PODS, seed), bodies))
        ]
        rows.append(Row.of(RANDOM, records))
        for way, rule in rules:
            with front_of(servers, rule) as front:
                url = f"http://127.0.0.1:{front.http}"
                records = [
                    record for each in planned for record in runner.run(send([url], servers[0].model, [each], bodies))
                ]
            rows.append(Row.of(way, records))
    with (
        LiveServer(PODS * options.cores, *size, source=options.source) as server,
        asyncio.Runner(loop_factory=precise_loop) as runner,
    ):
        records = [
            record for each in planned for record in runner.run(send([server.url], server.model, [each], bodies))
        ]
        rows.append(Row.of(ONE_POD, records))
    return rate, rows


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the missed requests of each way."""
    axes = figure.subplots()
    colours = (INK, BLUE, SPONGE, BAD)
    axes.barh([row.way for row in rows], [100 * row.missed_share for row in rows], color=colours[: len(rows)])
    axes.invert_yaxis()
    axes.set_xlabel("missed, %")
    axes.set_title(f"{PODS} servers at {LOAD:g} of their capacity")


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--rule", choices=get_args(RuleName), default=DEFAULT)
    parser.add_argument("--cores", type=positive, default=CORES, help="of each server; leave some for load and front")
    parser.add_argument("--source", default=SOURCE, help="of the model; a slower one needs fewer requests")
    parser.add_argument("--rate", type=positive, help="requests per second; by default measured")
    parser.add_argument("--capacity-s", type=positive, default=8.0, help="seconds of that measurement")
    parser.add_argument("--seeds", type=at_least_one, default=2)
    parser.add_argument("--seconds", type=positive, default=20.0)
    parser.add_argument("--requests", type=at_least_one, default=1000, help="one after the other")
    options = parser.parse_args()
    seeds, seconds, requests = (1, 10.0, 200) if options.short else (options.seeds, options.seconds, options.requests)
    prioritize_process()
    added = measure_added(requests)
    rate, rows = measure_shared(options, seeds, seconds)
    console = Console(width=120)
    title = f"A trivial model, {requests} requests one after the other"
    table = new_table(title, ["way"], ["p50 ms", "p99 ms", "CPU of Envoy, ms a request", "of the picker"])
    for one in added:
        cells = (one.latency_ms.p50, one.latency_ms.p99, one.envoy_cpu_ms, one.picker_cpu_ms)
        table.add_row(one.way, *(f"{cell:.2f}" for cell in cells))
    console.print(table)
    title = f"{PODS} x {options.cores:g} cores at {rate:.1f} requests/s: {seeds} x {seconds:g} s"
    table = new_table(title, ["way"], ["requests", "missed", "%", "p50 ms", "p99 ms"])
    for row in rows:
        latency = (f"{row.latency_ms.p50:.0f}", f"{row.latency_ms.p99:.0f}")
        table.add_row(row.way, str(row.requests), str(row.missed), f"{100 * row.missed_share:.2f}", *latency)
    console.print(table)
    document = {"cores": options.cores, "source": options.source, "rate": rate, "seeds": seeds, "seconds": seconds}
    document |= {"added": [asdict(one) for one in added], "rows": [asdict(row) for row in rows]}
    save(options.out, "front", document, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
