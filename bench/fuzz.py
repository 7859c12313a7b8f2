"""Sends malformed requests to a real server. Nothing may break, and good requests in between must be answered.

One seed drives three sources: cases that schemathesis derives from the server's OpenAPI, HTTP/1.1 mutated on the wire,
and gRPC calls with mutated messages and metadata. Failures are: a 5xx status other than 503 and 504, an error without
a problem document, an unanswered good request, a lost lane or server, and memory growth.

    python -m bench.fuzz --requests 20000 --seed 1 --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import re
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.progress import Progress

from bench.fuzzing.http import Target, good_request, malformed_request
from bench.fuzzing.rpc import Call, good_call, malformed_call
from bench.live_server import LiveServer

__all__ = ["Addresses", "Findings", "fuzz"]

SIDE_BY_SIDE = 16
GOOD_EVERY = 50
PATIENCE_S = 10.0
WARM_SHARE = 0.2
"""Share of the requests after which memory is recorded first. Caches and arenas have reached their size by then."""

MOST_GROWTH_MIB = 48
"""Noise of the allocator in MiB. A leak of 1 KiB per request would reach half of it at 20,000 requests."""

SHARES = {"wire": 0.5, "grpc": 0.35, "schema": 0.15}
BAD_CODES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Host and port of the server under test, for HTTP and gRPC."""

    http: str
    grpc: str


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
    target = await asyncio.to_thread(_target, addresses)
    findings, done = Findings(seed), 0
    rng = random.Random(seed)
    cases = _cases(addresses, count, seed)
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
        elif kind == "grpc":
            yield "grpc", malformed_call(rng, target)
        else:
            yield "wire", malformed_request(rng, target)


async def _send_http(address: str, sent: bytes, findings: Findings) -> None:
    try:
        status, head, body = await asyncio.wait_for(_exchange(address, sent), PATIENCE_S)
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


async def _exchange(address: str, sent: bytes) -> tuple[int, bytes, bytes]:
    """The first answer that is not 1xx. Status 0 means that the connection closed without one."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = await reader.readline()
                if not line:
                    return 0, head, b""
                head += line
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                if length is None or status < 400 or sent.startswith(b"HEAD "):
                    return status, head, b""
                return status, head, await reader.readexactly(int(length[1]))
    finally:
        writer.close()


async def _send_call(channel: grpc.aio.Channel, call: Call, findings: Findings) -> None:
    try:
        await _raw(channel, call.method)(call.message, metadata=call.metadata, timeout=call.timeout_s)
        code = grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        code = error.code()
        if code in BAD_CODES:
            findings.failed(f"gRPC {code.name}: {error.details()}", f"{call}")
    findings.answers[f"grpc {code.name}"] += 1


def _raw(channel: grpc.aio.Channel, method: str) -> Any:
    """A call whose messages are raw bytes."""
    return channel.unary_unary(method)


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
        return (await asyncio.wait_for(_exchange(address, sent), PATIENCE_S))[0]
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return 0


async def _code(channel: grpc.aio.Channel, call: Call) -> grpc.StatusCode:
    try:
        await _raw(channel, call.method)(call.message, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _target(addresses: Addresses) -> Target:
    with urllib.request.urlopen(f"http://{addresses.http}/v2/models/digits", timeout=PATIENCE_S) as answer:
        described = json.load(answer)
    given = described["inputs"][0]
    return Target("digits", given["name"], (1, *given["shape"][1:]), described["outputs"][0]["name"], _image())


def _image() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.frombytes("L", (8, 8), bytes(range(0, 256, 4))).save(buffer, "PNG")
    return buffer.getvalue()


def _cases(addresses: Addresses, count: int, seed: int) -> Iterator[bytes]:
    """As raw requests, what schemathesis makes of the server's OpenAPI: half of it valid, half not."""
    import hypothesis
    import hypothesis.errors
    import requests
    import schemathesis

    wanted = int(count * SHARES["schema"] * 1.2)
    schema = schemathesis.openapi.from_url(f"http://{addresses.http}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    made: list[bytes] = []

    def collect(case: Any) -> None:
        try:
            ready: Any = requests.Request(**case.as_transport_kwargs(base_url=f"http://{addresses.http}")).prepare()
        except (ValueError, requests.RequestException):
            return  # the other sources cover requests that no client library would send
        body = ready.body.encode() if isinstance(ready.body, str) else ready.body or b""
        headers = "".join(f"{name}: {_text(value)}\r\n" for name, value in ready.headers.items())
        made.append(f"{ready.method} {ready.path_url} HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode("latin-1") + body)

    for operation in operations:
        # The inference path gets the remaining cases; half of them name the loaded model.
        share = wanted // 2 if operation.method.upper() == "POST" else wanted // 4 // len(operations)
        paths = [None, {"model": "digits", "version": "1"} if "version" in operation.path else {"model": "digits"}]
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            for path in paths if operation.method.upper() == "POST" else [None]:
                strategy = operation.as_strategy(generation_mode=mode, path_parameters=path)
                given: Any = hypothesis.given(strategy)
                settings: Any = hypothesis.settings(
                    max_examples=max(1, share // 8),
                    database=None,
                    deadline=None,
                    suppress_health_check=list(hypothesis.HealthCheck),
                    phases=[hypothesis.Phase.generate],
                )
                test = settings(given(collect))
                # An operation without input has no invalid input.
                with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                    seeded: Any = hypothesis.seed(seed)
                    seeded(test)()
    random.Random(seed).shuffle(made)
    return iter(made)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Exits with 1 when there are failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="malformed ones, of all kinds (default 20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/bench/fuzz.json"), help="where the findings go")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON too")
    chosen = parser.parse_args()
    console = Console(stderr=True)
    options = ("--slo-ms", "500", "--header-timeout-s", "2", "--max-body-bytes", str(4 << 20))
    with LiveServer(2, *options, model="digits", source="digits://") as server:
        lanes = len(server.state().lanes)
        warm: list[float] = []
        began = time.monotonic()
        with Progress(console=console) as shown:
            task = shown.add_task("malformed requests", total=chosen.requests)
            findings = asyncio.run(
                fuzz(
                    Addresses(server.url.removeprefix("http://"), server.grpc),
                    chosen.requests,
                    chosen.seed,
                    lambda done: shown.update(task, completed=done),
                    lambda: warm.append(_rss_mib(server.pid)),
                )
            )
        took_s = time.monotonic() - began
        rss = (warm[0], _rss_mib(server.pid))
        if rss[1] - rss[0] > MOST_GROWTH_MIB:
            findings.failed(f"memory grew from {rss[0]:.0f} to {rss[1]:.0f} MiB", "")
        state = server.state()
        crashes = server.metrics().get("sponge_lane_crashes_total", 0.0)
        if len(state.lanes) != lanes or crashes:
            findings.failed(f"{crashes:g} lane crashes, {len(state.lanes)} of {lanes} lanes", "")
    report = {
        "seed": findings.seed,
        "requests": dict(findings.sent),
        "answers": dict(sorted(findings.answers.items())),
        "good_answered": findings.good,
        "rss_mib": {"warm": round(rss[0], 1), "end": round(rss[1], 1)},
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
        f"RSS {rss[0]:.0f} to {rss[1]:.0f} MiB, {len(findings.failures)} failures; {chosen.out}"
    )
    sys.exit(bool(findings.failures))


if __name__ == "__main__":
    main()
