"""Sends malformed requests to a real server. Nothing may break, and good requests in between must be answered.

One seed drives four sources: cases that schemathesis derives from the server's OpenAPI, HTTP/1.1 mutated on the wire,
gRPC calls with mutated messages and metadata, and small requests that would cost a careless server much. Failures are:
a 5xx status other than 503 and 504, an error without a problem document, an unanswered good request, a lost lane or
server, a slow answer to the question whether the server lives, and memory that does not come back.

    python -m bench.fuzz --requests 100000 --seed 1 --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from rich.console import Console
from rich.progress import Progress

from bench.fuzzing.amplified import amplified
from bench.fuzzing.exchange import Addresses, describe, exchange, raw_method
from bench.fuzzing.http import Target, good_request, malformed_request
from bench.fuzzing.rpc import Call, good_call, malformed_call
from bench.fuzzing.schema import schema_cases
from bench.fuzzing.watch import HealthWatch, tree_mib
from bench.live_server import LiveServer
from bench.options import at_least_one, natural

__all__ = ["Findings", "fuzz"]

SIDE_BY_SIDE = 16
GOOD_EVERY = 50
PATIENCE_S = 10.0
WARM_SHARE = 0.2
"""Share of the requests after which memory is recorded first. Caches and arenas have reached their size by then."""

MOST_GROWTH_MIB = 30.0
"""Noise of the allocator, server and lanes together. A leak of 1 KiB per request would exceed it at 40,000 requests."""

SETTLING_S = 10.0
"""Time for the memory to come back after the last request."""

SLOWEST_HEALTH_MS = 250.0

MOST_SCHEMA_CASES = 4000
"""To make one takes 25 ms. A longer run sends more of the others instead."""

SHARES = {"wire": 0.45, "grpc": 0.3, "schema": 0.15, "amplified": 0.1}
BAD_CODES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@dataclass(slots=True)
class Findings:
    """Counts of all outcomes. `failures` pairs each violation with the request that caused it."""

    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    good: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def failed(self, what: str, sent: bytes | str) -> None:
        text = sent if isinstance(sent, str) else repr(sent[:4000])
        self.failures.append({"what": what, "sent": text})


async def fuzz(
    addresses: Addresses, count: int, seed: int, progress: Callable[[int], None], half_way: Callable[[], None]
) -> Findings:
    """Sends `count` malformed requests, and good ones in between.

    Args:
        progress: called with how many are done.
        half_way: called once the server is warm, to take down what should not grow from then on.
    """
    target = await asyncio.to_thread(describe, addresses)
    findings, done = Findings(seed), 0
    rng = random.Random(seed)
    cases = schema_cases(addresses.http, min(MOST_SCHEMA_CASES, int(count * SHARES["schema"] * 1.2)), seed)
    async with grpc.aio.insecure_channel(addresses.grpc) as channel:

        async def worker() -> None:
            nonlocal done
            for kind, sent in source:
                findings.sent[kind] += 1
                if isinstance(sent, Call):
                    await _send_call(channel, sent, findings)
                else:
                    await _send_http(addresses.http, sent, findings)
                done += 1
                progress(done)
                if done == int(count * WARM_SHARE):
                    half_way()
                if done % GOOD_EVERY == 0:
                    await _good(channel, addresses, target, findings)

        # A model that has never given a number is at fault itself for what overflows in it.
        await _good(channel, addresses, target, findings)
        source = _mixed(rng, target, cases, count)
        await asyncio.gather(*(worker() for _ in range(SIDE_BY_SIDE)))
        await _good(channel, addresses, target, findings)
    return findings


def _mixed(
    rng: random.Random, target: Target, cases: Iterator[bytes], count: int
) -> Iterator[tuple[str, bytes | Call]]:
    for kind in rng.choices(list(SHARES), list(SHARES.values()), k=count):
        case = next(cases, None) if kind == "schema" else None
        if case is not None:
            yield "schema", case
        elif kind == "amplified":
            yield kind, amplified(rng, target)
        elif kind == "grpc":
            yield "grpc", malformed_call(rng, target)
        else:
            yield "wire", malformed_request(rng, target)


async def _send_http(address: str, sent: bytes, findings: Findings) -> None:
    try:
        status, head, body = await asyncio.wait_for(exchange(address, sent), PATIENCE_S)
    except TimeoutError:
        findings.failed("no answer, and the connection stays open", sent)
        return
    except (OSError, asyncio.IncompleteReadError):
        findings.answers["http closed"] += 1
        return
    findings.answers[f"http {status or 'closed'}"] += 1
    if status >= 500 and status not in (503, 504):
        findings.failed(f"HTTP {status}: {body[:300]!r}", sent)
    elif status >= 400 and b"content-type: application/problem+json" not in head.lower():
        findings.failed(f"HTTP {status} without a problem document", sent)


async def _send_call(channel: grpc.aio.Channel, call: Call, findings: Findings) -> None:
    try:
        await raw_method(channel, call.method)(call.message, metadata=call.metadata, timeout=call.timeout_s)
        code = grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code in BAD_CODES:
            findings.failed(f"gRPC {code.name}: {error.details()}", f"{call}")
    findings.answers[f"grpc {code.name}"] += 1


async def _good(channel: grpc.aio.Channel, addresses: Addresses, target: Target, findings: Findings) -> None:
    """Sends one good request of each form. Each has three tries, since a moment of overload may shed it."""
    sent = good_request(target)
    call = good_call(target)
    for name, ask in (
        ("REST", lambda: _status(addresses.http, sent)),
        ("gRPC", lambda: _code(channel, call)),
    ):
        answers = []
        for _ in range(3):
            answers.append(await ask())
            if answers[-1] in (200, grpc.StatusCode.OK):
                findings.good += 1
                break
            await asyncio.sleep(0.2)
        else:
            findings.failed(f"a good request over {name} got {answers}", "")


async def _status(address: str, sent: bytes) -> int:
    try:
        return (await asyncio.wait_for(exchange(address, sent), PATIENCE_S))[0]
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return 0


async def _code(channel: grpc.aio.Channel, call: Call) -> grpc.StatusCode:
    try:
        await raw_method(channel, call.method)(call.message, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _settled_mib(pid: int, wanted_mib: float) -> float:
    """Memory once it is at most `wanted_mib`, or after the time to settle."""
    end = time.monotonic() + SETTLING_S
    while (used := tree_mib(pid)) > wanted_mib and time.monotonic() < end:
        time.sleep(0.2)
    return used


def main() -> None:
    """Exits with 1 when there are failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=at_least_one, default=20_000, help="of all kinds, HTTP and gRPC (default 20000)"
    )
    parser.add_argument("--seed", type=natural, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench/fuzz.json"), help="where the findings go")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON too")
    chosen = parser.parse_args()
    console = Console(stderr=True)
    options = ("--slo-ms", "500", "--header-timeout-s", "2", "--max-body-bytes", str(4 << 20))
    with LiveServer(2, *options, model="digits", source="digits://") as server:
        lanes = len(server.state().lanes)
        warm: list[float] = []
        began = time.monotonic()
        with Progress(console=console) as shown, HealthWatch(server.url) as health:
            console.print("Making requests of the server's OpenAPI document: up to two minutes")
            task = shown.add_task("malformed requests", total=chosen.requests)
            findings = asyncio.run(
                fuzz(
                    Addresses(server.url.removeprefix("http://"), server.grpc),
                    chosen.requests,
                    chosen.seed,
                    lambda done: shown.update(task, completed=done),
                    lambda: warm.append(tree_mib(server.pid)),
                )
            )
        took_s = time.monotonic() - began
        rss = (warm[0], _settled_mib(server.pid, warm[0] + MOST_GROWTH_MIB))
        if rss[1] - rss[0] > MOST_GROWTH_MIB:
            findings.failed(f"memory grew from {rss[0]:.0f} to {rss[1]:.0f} MiB", "")
        if health.worst_ms > SLOWEST_HEALTH_MS or health.failed:
            findings.failed(f"health took up to {health.worst_ms:.0f} ms, {health.failed} answers failed", "")
        state = server.state()
        crashes = server.metrics()['sponge_lane_crashes_total{model="digits"}']
        if len(state.lanes) != lanes or crashes:
            findings.failed(f"{crashes:g} lane crashes, {len(state.lanes)} of {lanes} lanes", "")
    report = {
        "seed": findings.seed,
        "requests": dict(findings.sent),
        "answers": dict(sorted(findings.answers.items())),
        "good_answered": findings.good,
        "memory_mib": {"warm": round(rss[0], 1), "end": round(rss[1], 1)},
        "health_ms": {"worst": round(health.worst_ms, 1), "p99": round(health.p99_ms, 1), "answers": health.answers},
        "lane_crashes": crashes,
        "took_s": round(took_s, 1),
        "failures": findings.failures,
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(report, indent=1))
    if chosen.json:
        print(json.dumps(report, indent=1))
    console.print(
        f"{sum(findings.sent.values())} malformed requests in {took_s:.0f} s, {findings.good} good ones answered, "
        f"memory {rss[0]:.0f} to {rss[1]:.0f} MiB, slowest health answer "
        f"{health.worst_ms:.0f} ms, {len(findings.failures)} failures; {chosen.out}"
    )
    sys.exit(bool(findings.failures))


if __name__ == "__main__":
    main()
