"""`sponge load`: sends an open-loop load with deadlines over a replayed uplink, and prints the result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from sponge_cli.common_options import Number

__all__ = ["command"]


@click.command(
    epilog="Example: sponge load --model resnet18 --rate 20 --duration-s 60 --bandwidth 4g --payload-bytes 100000"
)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Data port of the server.")
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Authority of the server's certificate, for an https URL.  [default: those of this machine]",
)
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="File with the API key, if the server asks."
)
@click.option("--model", required=True, metavar="NAME", help="Name of the model on the server.")
@click.option("--rate", type=Number(0, min_open=True), help="Requests per second; a file is thinned to it.")
@click.option("--duration-s", type=Number(0, min_open=True), default=30.0, show_default=True)
@click.option(
    "--arrivals", default="poisson", show_default=True, metavar="poisson|burst|twitter|azure-code|azure-conv|FILE"
)
@click.option(
    "--slo-ms",
    type=Number(1),
    default=1000.0,
    show_default=True,
    help="Deadline of each request, end to end.",
)
@click.option(
    "--bandwidth",
    default="none",
    show_default=True,
    metavar="none|4g|synthetic|FILE",
    help="Uplink of each request; 4g is the recorded trace if it is there, else a synthetic one.",
)
@click.option(
    "--bandwidth-from-s",
    type=Number(0),
    default=0.0,
    show_default=True,
    help="Start the uplink at this second of its trace.",
)
@click.option("--payload-bytes", type=click.IntRange(1), help="Size of each body.  [default: as the model needs it]")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed sends the same load.")
@click.option(
    "--timeout-s",
    type=Number(0),
    default=10.0,
    show_default=True,
    help="Time to wait after the deadline for an answer.",
)
@click.option(
    "--timeline", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A JSON line per request."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    url: str,
    ca_file: Path | None,
    api_key_file: Path | None,
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
    """Send requests with deadlines, on a schedule that answers cannot slow down.

    Every request is an upload of its own at the bandwidth of that moment, and its time counts from when it was due to
    be sent. It ends as in_time, late, shed (503), expired (504), cancelled (no answer) or error. Percentiles are of
    answered requests. Ctrl-C stops the sending and waits for the answers; a second Ctrl-C stops the waiting.
    """
    from sponge_client.access import read_api_key, trusting
    from sponge_client.console import run_load
    from sponge_client.load import LoadSpec
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
        tls=None if ca_file is None else trusting(ca_file),
        api_key=None if api_key_file is None else read_api_key(api_key_file),
    )
    summary = run_load(spec, timeline)
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    else:
        from rich.console import Console

        from sponge_client.report import summary_table

        Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(summary_table(spec, summary))
