"""Measures what gzip buys on a slow uplink: the slack before the deadline, for the same request plain and compressed.

ResNet-18 runs on two cores. A photograph of 224 x 224 pixels is sent as numbers in JSON, as a binary tensor and as a
JPEG, each plain and in gzip. A request goes through the recorded 4G uplink (`SPONGE_TRACES`; else a synthetic one), at
the same moments for every form: its bytes leave no sooner than the link carries them. It is due 1 s after its sender
began to compress it. The answer comes back without delay.

    python -m bench.gzip_uplink
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import orjson
from rich.console import Console
from rich.progress import track

from bench.live_server import LiveServer
from bench.options import arguments, at_least_one
from bench.results import SOFT, SPONGE, Percentiles, new_table, save
from sponge_client.client import deadline_headers
from sponge_client.wire import ResponseReader
from sponge_core.errors import SpongeError
from sponge_workload.bandwidth import BandwidthTrace
from sponge_workload.files import load_bandwidth

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CORES, MAX_BATCH, SLO_S, SIDE = 2.0, 8, 1.0, 224
STEP_S = 0.005
GIVE_UP_S = 30.0
LEVEL = 6
"""What most clients compress with by default."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the request. `compress_s`: what the sender needs to compress it."""

    name: str
    coding: str
    headers: dict[str, str]
    body: bytes
    compress_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one form; the slack is what is left of the deadline when the answer is there, below 0 after it."""

    form: str
    coding: str
    kib: int
    compress_ms: float
    sent: int
    in_time: int
    latency_ms: Percentiles
    slack_ms_p50: float
    slack_ms_p10: float


def forms() -> Iterator[Form]:
    """The request in every form, plain and compressed."""
    pixels, jpeg = _photograph()
    scaled = (pixels / np.float32(255) - np.array(MEAN, "f4")) / np.array(STD, "f4")
    tensor = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])
    entry: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": tensor.shape}
    text = orjson.dumps({"inputs": [entry | {"data": tensor.ravel()}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    head = orjson.dumps({"inputs": [entry | {"parameters": {"binary_data_size": tensor.nbytes}}]})
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    for name, headers, body in (
        ("JSON", {"content-type": "application/json"}, text),
        ("binary tensor", binary, head + tensor.tobytes()),
        ("JPEG", {"content-type": "image/jpeg"}, jpeg),
    ):
        yield Form(name, "plain", headers, body, 0.0)
        began = time.perf_counter()
        small = gzip.compress(body, LEVEL)
        yield Form(name, "gzip", headers | {"content-encoding": "gzip"}, small, time.perf_counter() - began)


def _photograph() -> tuple[np.ndarray[Any, Any], bytes]:
    """The pixels of one of scikit-learn's sample photographs, and the same as JPEG."""
    import io

    from PIL import Image
    from sklearn.datasets import load_sample_images

    pixels = load_sample_images().images[0]
    square = Image.fromarray(pixels[:, : pixels.shape[0]]).resize((SIDE, SIDE))
    stream = io.BytesIO()
    square.save(stream, "JPEG", quality=90)
    return np.asarray(square), stream.getvalue()


async def send(url: str, model: str, form: Form, link: BandwidthTrace) -> tuple[int, float]:
    """Status and seconds of one request over `link`, from the moment its sender begins to compress it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    began = time.perf_counter()
    headers = form.headers | deadline_headers(time.time(), SLO_S) | {"content-length": str(len(form.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    stream = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}\r\n".encode() + form.body
    answer = asyncio.create_task(_answer(reader))
    try:
        await asyncio.sleep(form.compress_s)
        started, sent = time.perf_counter(), 0
        while sent < len(stream) and not answer.done():
            allowed = int(link.carried(time.perf_counter() - started))
            writer.write(stream[sent:allowed])
            sent = max(sent, min(allowed, len(stream)))
            await asyncio.sleep(STEP_S)
        status = await asyncio.wait_for(answer, GIVE_UP_S)
    except (OSError, TimeoutError):
        status = 0
    finally:
        answer.cancel()
        writer.close()
    return status, time.perf_counter() - began


async def _answer(reader: asyncio.StreamReader) -> int:
    response = ResponseReader()
    while not response.done:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError("closed before the answer")
        response.feed(data)
    return response.status


async def run(server: LiveServer, all_forms: Sequence[Form], link: BandwidthTrace, each: int) -> list[Row]:
    """Sends every form at `each` moments of the trace."""
    rng = random.Random(1)
    moments = [rng.uniform(0.0, link.duration_s) for _ in range(each)]
    found: dict[int, list[tuple[int, float]]] = {index: [] for index in range(len(all_forms))}
    for moment in track(moments, "sending", console=Console(stderr=True), transient=True):
        for index, form in enumerate(all_forms):
            found[index].append(await send(server.url, server.model, form, link.starting_at(moment)))
    return [summarise(form, found[index]) for index, form in enumerate(all_forms)]


def summarise(form: Form, answers: Sequence[tuple[int, float]]) -> Row:
    """A request that was refused has no slack: it counts as late by what it had to wait."""
    slack_ms = [(SLO_S - took) * 1000 if status == 200 else min(0.0, SLO_S - took) * 1000 for status, took in answers]
    p10, p50 = np.percentile(slack_ms, (10, 50)).tolist()
    return Row(
        form.name,
        form.coding,
        round(len(form.body) / 1024),
        round(form.compress_s * 1000, 1),
        len(answers),
        sum(status == 200 and took <= SLO_S for status, took in answers),
        Percentiles.of([took for _, took in answers]),
        round(p50, 1),
        round(p10, 1),
    )


def draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draws the median latency of every form, and the deadline."""
    axes = figure.subplots()
    names = list(dict.fromkeys(row.form for row in rows))
    for shift, coding, colour in ((-0.2, "plain", SOFT), (0.2, "gzip", SPONGE)):
        chosen = [row for row in rows if row.coding == coding]
        places = [names.index(row.form) + shift for row in chosen]
        bars = axes.bar(places, [row.latency_ms.p50 for row in chosen], 0.38, color=colour, label=coding)
        axes.bar_label(bars, [f"{row.in_time / row.sent:.0%} in time" for row in chosen], fontsize=8)
    axes.axhline(SLO_S * 1000, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("median until the answer [ms]")
    axes.set_title(f"The same photograph over a 4G uplink; due in {SLO_S:g} s")
    axes.legend(frameon=False)


def main() -> None:
    """Exits with 1 when gzip gains no slack for JSON."""
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=at_least_one, default=None, metavar="N", help="per form; default 100")
    options = parser.parse_args()
    each = options.requests or (15 if options.short else 100)
    link = load_bandwidth("4g", 1, os.environ)
    assert link is not None
    all_forms = list(forms())
    try:
        with LiveServer(CORES, "--max-batch", str(MAX_BATCH), "--slo-ms", f"{SLO_S * 1000:g}") as server:
            rows = asyncio.run(run(server, all_forms, link, each))
    except SpongeError as error:
        sys.exit(f"{error}")
    figures = ["KiB", "compress ms", "in time", "p50 ms", "p90 ms", "slack p50", "slack p10"]
    table = new_table(None, ["form", "coding"], figures)
    for row in rows:
        shares = (f"{row.in_time}/{row.sent}", f"{row.latency_ms.p50:.0f}", f"{row.latency_ms.p90:.0f}")
        slack = (f"{row.slack_ms_p50:.0f}", f"{row.slack_ms_p10:.0f}")
        table.add_row(row.form, row.coding, str(row.kib), f"{row.compress_ms:.1f}", *shares, *slack)
    Console().print(table)
    plain, small = (next(row for row in rows if (row.form, row.coding) == ("JSON", name)) for name in ("plain", "gzip"))
    gained = small.slack_ms_p50 - plain.slack_ms_p50
    print(f"trace {link.name}: gzip gains {gained:.0f} ms of slack for JSON in the middle")
    save(
        options.out,
        "gzip_uplink",
        {"trace": link.name, "slo_ms": SLO_S * 1000, "rows": [asdict(row) for row in rows]},
        lambda figure: draw(figure, rows),
    )
    sys.exit(gained <= 0)


if __name__ == "__main__":
    main()
