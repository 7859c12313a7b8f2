"""`sponge load`: sends an open-loop load with deadlines over a replayed uplink, and prints what became of it.

Reads the options and prints; the client package does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from sponge_core.errors import SpongeError

if TYPE_CHECKING:
    from sponge_client.load import LoadRun, LoadSpec
    from sponge_client.outcomes import Summary

__all__ = ["command"]

PROGRESS_S = 0.5
ARRIVALS = "poisson, burst, a recording (twitter, azure-code, azure-conv; drawn alike where it is not there) or a file."


@click.command(
    epilog="Example: sponge load --model resnet18 --rate 20 --duration-s 60 --bandwidth 4g --payload-bytes 100000"
)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Data port of the server.")
@click.option("--model", required=True, metavar="NAME", help="The model, as it was named to the server.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests per second; thins a file out.")
@click.option("--duration-s", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option(
    "--arrivals", default="poisson", show_default=True, metavar="poisson|burst|twitter|azure-code|azure-conv|FILE"
)
@click.option("--slo-ms", type=click.FloatRange(1), default=1000.0, show_default=True, help="End to end.")
@click.option(
    "--bandwidth",
    default="none",
    show_default=True,
    metavar="none|4g|synthetic|FILE",
    help="The link of each upload; 4g is the recorded trace where there is one, else synthetic.",
)
@click.option(
    "--bandwidth-from-s", type=click.FloatRange(0), default=0.0, show_default=True, help="Replay the link from there."
)
@click.option(
    "--payload-bytes", type=click.IntRange(1), help="Size of each body; as the model's requests come if absent."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed sends the same load.")
@click.option(
    "--timeout-s", type=click.FloatRange(0), default=10.0, show_default=True, help="Patience after the deadline."
)
@click.option(
    "--timeline", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A JSON line per request."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    url: str,
    model: str,
    rate: float | None,
    duration_s: float,
    arrivals: str,
    slo_ms: float,
    bandwidth: str,
    bandwidth_from_s: float,
    payload_bytes: int | None,
    seed: int,
    timeout_s: float,
    timeline: Path | None,
    as_json: bool,
) -> None:
    """Send requests with deadlines, on a schedule that no answer can slow down.

    Every request is an upload of its own at the bandwidth of that moment, and its time counts from when it was due to
    be sent. It ends as in_time, late, shed (503), expired (504), cancelled (no answer) or error. Percentiles are of
    answered requests. Ctrl-C stops the sending and accounts for what was sent; a second one waits for no more answers.
    """
    from sponge_client.load import LoadSpec
    from sponge_client.wire import precise_loop
    from sponge_workload.files import load_arrivals, load_bandwidth

    link = load_bandwidth(bandwidth, seed, os.environ)
    spec = LoadSpec(
        url=url,
        model=model,
        arrivals=load_arrivals(arrivals, rate, duration_s, seed, os.environ),
        duration_s=duration_s,
        slo_s=slo_ms / 1000,
        bandwidth=link.starting_at(bandwidth_from_s) if link else None,
        payload_bytes=payload_bytes,
        seed=seed,
        timeout_s=timeout_s,
    )
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        summary = runner.run(_run(spec, timeline))
    click.echo(json.dumps(summary.as_dict()) if as_json else _table(spec, summary))


async def _run(spec: LoadSpec, timeline: Path | None) -> Summary:
    from sponge_client.load import prepare
    from sponge_client.outcomes import Record, summarise
    from sponge_client.wire import go_first

    with contextlib.ExitStack() as stack:
        # Line by line, so that whoever watches the run can follow it.
        sink = stack.enter_context(_open(timeline)) if timeline else None

        def write(record: Record) -> None:
            if sink is not None:
                sink.write(json.dumps({**record.as_dict(), "sent_at": run.started_at + record.at_s}) + "\n")

        run = await prepare(spec, write)
        go_first()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _interrupt, run)
        progress = loop.create_task(_progress(run, spec)) if sys.stderr.isatty() else None
        await run.run()
        if progress is not None:
            progress.cancel()
            click.echo("\r\x1b[K", nl=False, err=True)
    return summarise(run.records, run.duration_s)


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", buffering=1, encoding="utf-8")
    except OSError as error:
        raise SpongeError(f"--timeline {path}: {error.strerror}; give a file in a folder that exists") from None


def _interrupt(run: LoadRun) -> None:
    if run.stopped:
        run.abandon()
    else:
        run.stop()


async def _progress(run: LoadRun, spec: LoadSpec) -> None:
    while True:
        elapsed_s = min(max(run.elapsed_s, 0.0), spec.duration_s)
        ended = sum(run.counts.values())
        share = f"{run.counts['in_time'] / ended:.1%}" if ended else "-"
        line = f"{elapsed_s:5.0f} of {spec.duration_s:.0f} s   ended {ended}   in time {share}   open {run.open}"
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        await asyncio.sleep(PROGRESS_S)


def _table(spec: LoadSpec, summary: Summary) -> str:
    link = f"{spec.bandwidth.name}" if spec.bandwidth else "no network replayed"
    figures = summary.as_dict()
    rows = [f"{spec.model} at {spec.url}, SLO {spec.slo_s * 1000:g} ms, {link}"]
    for name, value in figures.items():
        if name == "attainment":
            shown = f"{value:.3%}"
        else:
            shown = "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        rows.append(f"  {name:<18} {shown:>10}")
    return "\n".join(rows)
