"""Measures how fast a hopeless request is refused while long batches keep all cores busy.

ResNet-18 runs on two cores, and batches of up to 8 for patient clients keep both busy. The measured requests cannot be
met: they are due in 20 ms (less than one batch takes on all cores), or their deadline has passed on arrival. Each has
a connection of its own and a body of a few KB, of 602 KB, or one that is announced and never sent. The time runs from
the last byte sent to the last byte of the answer. The target is 5 ms at the 99th percentile.

    python -m bench.refusals
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.live_server import LiveServer
from bench.options import arguments
from bench.pressure import PatientClients
from bench.results import BAD, Percentiles, new_table, save
from sponge_client.client import SpongeClient, deadline_headers
from sponge_client.oip import InferBody
from sponge_client.payloads import image_bodies, tensor_bodies
from sponge_client.wire import ResponseReader, precise_loop, prioritize_process
from sponge_core.errors import SpongeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES = 2.0
MAX_BATCH = 8
TIGHT_S, GONE_S, PATIENCE_S = 0.020, 1.0, 5.0
RATE = 20.0
PROMISED_MS = 5.0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of hopeless request. `head` and `body` are sent unchanged; `gone` means that it was sent long ago."""

    name: str
    head: str
    body: bytes
    slo_s: float | None  # None: the body says it
    gone: bool = False

    def request(self) -> bytes:
        sent_at = time.time() - (GONE_S if self.gone else 0.0)
        headers = deadline_headers(sent_at, self.slo_s) if self.slo_s else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.head}{lines}\r\n".encode() + self.body


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of all requests of one kind."""

    kind: str
    sent: int
    refused: int
    broken: int  # the connection ended without a whole answer
    ms: Percentiles
    unread: int  # refused before the whole body was sent


def kinds(url: str, model: str, small: InferBody, large: InferBody) -> Iterator[Kind]:
    """The kinds of requests: small and large bodies, and a large body that is never sent."""
    host = urlsplit(url).netloc

    def head(body: InferBody) -> str:
        headers = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
        return f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\n{headers}"

    for size, body in (("small body", small), ("602 KB", large)):
        yield Kind(f"due in 20 ms, {size}", head(body), body.data, TIGHT_S)
        yield Kind(f"lost before, {size}", head(body), body.data, GONE_S / 2, gone=True)
    yield Kind("due in 20 ms, body never comes", head(large), b"", TIGHT_S)
    yield Kind("lost before, body never comes", head(large), b"", GONE_S / 2, gone=True)
    timed = with_timeout(large)
    yield Kind("due in 20 ms says the body, 602 KB", head(timed), timed.data, None)


def with_timeout(body: InferBody) -> InferBody:
    """The same body with the protocol's `timeout` parameter, which the server sees only after reading the body."""
    document = json.loads(body.data[: body.header_length])
    document["parameters"]["timeout"] = round(TIGHT_S * 1e6)
    start = json.dumps(document).encode()
    return InferBody(start + body.data[body.header_length :], len(start))


@dataclass(slots=True)
class Refusal:
    """One answer: HTTP status (0: none), seconds after the last byte sent, and whether it came before that byte."""

    status: int
    after_s: float
    early: bool


async def ask(address: tuple[str, int], kind: Kind) -> Refusal:
    """Sends one request on a connection of its own."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        reader = asyncio.create_task(read(sock))
        with contextlib.suppress(OSError):  # closed while it was sent: what was answered before counts
            await loop.sock_sendall(sock, kind.request())
        sent = loop.time()
        try:
            status, answered = await asyncio.wait_for(reader, PATIENCE_S)
        except (OSError, ValueError, TimeoutError):
            return Refusal(0, PATIENCE_S, early=False)
    return Refusal(status, max(0.0, answered - sent), answered < sent or not kind.body)


async def read(sock: socket.socket) -> tuple[int, float]:
    """The status of the answer and the time when it was complete."""
    loop = asyncio.get_running_loop()
    response = ResponseReader()
    while not response.done:
        data = await loop.sock_recv(sock, 65536)
        if not data:
            raise ConnectionError("closed before the answer")
        response.feed(data)
    return response.status, loop.time()


async def run(server: LiveServer, each: int) -> tuple[list[Row], dict[str, float], dict[str, list[float]]]:
    """Sends `each` requests of every kind in random order."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    where = (address.hostname, address.port)
    async with SpongeClient(server.url) as client:
        metadata = await client.metadata(server.model)
        small, large = image_bodies(metadata, None)[0], tensor_bodies(metadata, None, 1)[0]
        all_kinds = list(kinds(server.url, server.model, small, large))
    with PatientClients(server, small):
        await asyncio.sleep(5.0)
        prioritize_process()
        before = server.metrics()
        order = [kind for kind in all_kinds for _ in range(each)]
        random.Random(1).shuffle(order)
        gaps = np.random.default_rng(1).exponential(1 / RATE, len(order)).tolist()
        found: dict[str, list[Refusal]] = {kind.name: [] for kind in all_kinds}
        for kind, gap in track(
            list(zip(order, gaps, strict=True)), "asking", console=Console(stderr=True), transient=True
        ):
            found[kind.name].append(await ask(where, kind))
            await asyncio.sleep(gap)
        after = await asyncio.to_thread(server.metrics)
    rows = [summarise(name, refusals) for name, refusals in found.items()]
    seconds = {name: [refusal.after_s for refusal in refusals] for name, refusals in found.items()}
    return rows, beside(before, after, server.model), seconds


def summarise(name: str, refusals: Sequence[Refusal]) -> Row:
    return Row(
        name,
        len(refusals),
        sum(refusal.status == 503 for refusal in refusals),
        sum(refusal.status == 0 for refusal in refusals),
        Percentiles.of([refusal.after_s for refusal in refusals]),
        sum(refusal.early for refusal in refusals),
    )


def beside(before: dict[str, float], after: dict[str, float], model: str) -> dict[str, float]:
    """The server's throughput for patient clients meanwhile, and the lag of its event loop."""

    def mean(name: str) -> float:
        label = f'{{model="{model}"}}' if f'{name}_count{{model="{model}"}}' in after else ""
        count = after[f"{name}_count{label}"] - before[f"{name}_count{label}"]
        return (after[f"{name}_sum{label}"] - before[f"{name}_sum{label}"]) / max(count, 1)

    return {
        "batch_ms": round(1000 * mean("sponge_batch_seconds"), 1),
        "batch_size": round(mean("sponge_batch_size"), 2),
        "batch_threads": round(mean("sponge_batch_threads"), 2),
        "projection_ms": round(1000 * mean("sponge_projection_seconds"), 2),
        "loop_lag_ms": round(1000 * mean("sponge_event_loop_lag_seconds"), 2),
    }


def draw(figure: Figure, seconds: dict[str, list[float]]) -> None:
    """Draws the share of refusals that took longer, by kind."""
    axes = figure.subplots()
    for name, values in seconds.items():
        ordered = np.sort(np.asarray(values)) * 1000
        axes.step(np.maximum(ordered, 0.05), 1 - np.arange(len(ordered)) / len(ordered), where="post", label=name)
    axes.axvline(PROMISED_MS, color=BAD, linestyle="--", label="promised")
    axes.axhline(0.01, color=BAD, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("ms from the last byte sent to the refusal (0.05: before)")
    axes.set_ylabel("share that took longer")
    axes.set_title("Refusing what cannot be met, while batches keep all cores busy")
    axes.legend(frameon=False, fontsize=7)


def main() -> None:
    """Measures, writes and prints. Exits with 1 when the target is missed."""
    options = arguments(__doc__).parse_args()
    try:
        with (
            LiveServer(CORES, "--max-batch", str(MAX_BATCH)) as server,
            asyncio.Runner(loop_factory=precise_loop) as runner,
        ):
            rows, meanwhile, seconds = runner.run(run(server, 60 if options.short else 300))
    except SpongeError as error:
        sys.exit(f"refusals: {error}")
    document = {"promised_ms": PROMISED_MS, "rows": [asdict(row) for row in rows], "meanwhile": meanwhile}
    save(options.out, "refusals", document, lambda figure: draw(figure, seconds))
    figures = ["sent", "refused", "broken", "before its body", "p50", "p90", "p99", "max"]
    title, caption = "ms from the last byte sent to the refusal", f"meanwhile: {meanwhile}"
    table = new_table(title, ["request"], figures, caption)
    for row in rows:
        counts = (row.sent, row.refused, row.broken, row.unread)
        table.add_row(row.kind, *map(str, counts), *(f"{value:.2f}" for value in asdict(row.ms).values()))
    Console(width=120).print(table)
    sys.exit(any(row.ms.p99 > PROMISED_MS or row.refused < row.sent for row in rows))


if __name__ == "__main__":
    main()
