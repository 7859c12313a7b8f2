"""`sponge serve`: options to settings, then the server on its loop. Imports the server only when called."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import click

from sponge_core.errors import SpongeError

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge serve --model resnet18=torchvision://resnet18?weights=none
  sponge serve --model digits=digits:// --cores 500m --max-cores 2 --step-cores 250m --slo-ms 300
  curl -X POST -H 'Content-Type: image/jpeg' -H 'x-sponge-slo-ms: 500' --data-binary @cat.jpg \\
      http://127.0.0.1:8080/v2/models/resnet18/infer

Every option can be set in the environment: SPONGE_SERVE_HTTP_PORT=8081, and so on.
"""


class _Cores(click.ParamType[float]):
    """CPU as Kubernetes writes it, `500m` or `0.5`; gives cores."""

    name = "cores"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            cores = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
        except ValueError:
            cores = math.nan
        if not (math.isfinite(cores) and cores > 0):
            self.fail(f"{text!r} is no CPU size: write it as 0.5 or 500m", param, ctx)
        return cores


class _NamedClass(click.ParamType[tuple[str, float]]):
    """`NAME=MS`; gives the name and seconds."""

    name = "name=ms"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        try:
            limit_ms = float(text)
        except ValueError:
            limit_ms = math.nan
        if not name or not math.isfinite(limit_ms):
            self.fail(f"{value!r} is no class: write NAME=MILLISECONDS, as in gold=300", param, ctx)
        return name, limit_ms / 1000


CORES = _Cores()


@click.command(epilog=EXAMPLE)
@click.option("--model", metavar="NAME=SOURCE", required=True, help="Name in the URLs, and where the model comes from.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of both ports; 0.0.0.0 for all.")
@click.option("--http-port", default=8080, show_default=True, help="Data port; 0 takes a free one.")
@click.option("--control-port", default=9090, show_default=True, help="Metrics, health, control; 0 takes a free one.")
@click.option("--slo-ms", default=1000.0, show_default=True, help="End-to-end objective of requests that name none.")
@click.option(
    "--slo-class",
    "slo_classes",
    type=_NamedClass(),
    multiple=True,
    metavar="NAME=MS",
    help="A named objective; repeat.",
)
@click.option("--cores", type=CORES, default="2", show_default=True, help="Size until the operator says otherwise.")
@click.option("--min-cores", type=CORES, help="Smallest size to plan with.  [default: least of the others]")
@click.option("--max-cores", type=CORES, help="Largest size to plan with.  [default: cores]")
@click.option("--step-cores", type=CORES, default="1", show_default=True, help="Distance between sizes.")
@click.option("--max-batch", default=8, show_default=True, help="Largest batch.")
@click.option(
    "--profile", default="auto", show_default=True, help="auto measures at start; or a shipped name, or a file."
)
@click.option(
    "--control-token-file",
    type=click.Path(path_type=Path),
    help="File with the bearer token of the control endpoints; they stay closed without.",
)
@click.option("--drain-s", default=30.0, show_default=True, help="Longest wait for accepted requests after SIGTERM.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Logs go to stderr.",
)
def command(
    model: str,
    host: str,
    http_port: int,
    control_port: int,
    slo_ms: float,
    slo_classes: tuple[tuple[str, float], ...],
    cores: float,
    min_cores: float | None,
    max_cores: float | None,
    step_cores: float,
    max_batch: int,
    profile: str,
    control_token_file: Path | None,
    drain_s: float,
    log_level: str,
) -> None:
    """Serve a model; every request by its own deadline.

    Speaks the Open Inference Protocol (V2) on the data port; see /docs there. Prints one line when ready; SIGTERM
    answers what was accepted, then ends.
    """
    import uvloop

    from sponge_server.app import Server
    from sponge_server.lanes.forked import ForkedLanes
    from sponge_server.lanes.interface import ModelSpec
    from sponge_server.logs import set_up
    from sponge_server.settings import ServerSettings

    name, separator, source = model.partition("=")
    if not separator or not source:
        raise SpongeError(f"--model {model!r}: write NAME=SOURCE, as in resnet18=torchvision://resnet18?weights=none")
    settings = ServerSettings(
        model_name=name,
        model_source=source,
        host=host,
        http_port=http_port,
        control_port=control_port,
        slo_s=slo_ms / 1000,
        slo_classes=dict(slo_classes),
        cores=cores,
        min_cores=min(cores, step_cores, max_cores or cores) if min_cores is None else min_cores,
        max_cores=max_cores or cores,
        step_cores=step_cores,
        max_batch=max_batch,
        profile=profile,
        control_token=None if control_token_file is None else _token(control_token_file),
        drain_s=drain_s,
    )
    set_up(log_level)

    async def serve() -> None:
        await Server(settings, ForkedLanes([ModelSpec(name, source, max_batch)]), click.echo).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpongeError(f"--control-token-file {path}: cannot be read: {error}") from None
    if not token:
        raise SpongeError(f"--control-token-file {path}: the file is empty; write the token into it")
    return token
