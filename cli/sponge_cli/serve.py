"""`sponge serve`: settings to a server on its loop.

The options are the fields of `sponge_server.settings.ServerSettings`: a new one is added there and only there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sponge_cli.options import SettingsCommand, render, resolve, settings_options
from sponge_core.dispatch.registry import POLICIES
from sponge_core.errors import SpongeError, needs_extra
from sponge_server.settings import ServerSettings

if TYPE_CHECKING:
    from sponge_server.observability.tracing import Tracing

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge serve --model resnet18=torchvision://resnet18?weights=none
  sponge serve --model digits=digits:// --cores 500m --max-cores 2 --step-cores 250m --slo-ms 300
  sponge serve --model a=file:///models/a.pt2 --model b=digits:// --slo-ms 1000 --slo-ms b=200 --profile a=a.yaml
  sponge serve --config serve.yaml --print-config
  curl -X POST -H 'Content-Type: image/jpeg' -H 'x-sponge-slo-ms: 500' --data-binary @cat.jpg \\
      http://127.0.0.1:8080/v2/models/resnet18/infer

Several models share cores and lanes, in one order of deadlines. A value such as b=200 holds for model b alone, and one
without a name for every other.

A setting is taken from its flag, else from its environment variable, else from the file, else it has its default.
The file is YAML, or TOML where its name ends in .toml; its keys are the flags without the leading dashes.

\b
Policies for --dispatch:
""" + "\n".join(f"  {name:<15} {policy.summary}" for name, policy in POLICIES.items())


@click.command(cls=SettingsCommand, epilog=EXAMPLE)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="SPONGE_SERVE_CONFIG",
    help="Settings from a YAML or TOML file.  [env: SPONGE_SERVE_CONFIG]",
)
@click.option(
    "--print-config",
    is_flag=True,
    allow_from_autoenv=False,
    help="Show every setting and where it came from, as a file for --config, and end.",
)
def command(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve one model or several; every request by its own deadline.

    Speaks the Open Inference Protocol (V2), REST and gRPC; see /docs on the data port. Prints one line when ready;
    SIGTERM answers what was accepted, then ends.
    """
    resolved = resolve(ServerSettings, flags, config)
    if print_config:
        click.echo(render(resolved))
        return
    settings = resolved.settings
    token = None if settings.control_token_file is None else _token(settings.control_token_file)

    # The gRPC library reports every client that speaks its protocol badly; the client is told, and the log is for us.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    import uvloop

    from sponge_server.app import Server
    from sponge_server.models.source import with_precision
    from sponge_server.observability.access_log import AccessLog
    from sponge_server.observability.logs import set_up
    from sponge_server.observability.observers import RequestObserver
    from sponge_server.workers.interface import ModelSpec
    from sponge_server.workers.pool import WorkerPool
    from sponge_system.os_scheduling import wake_promptly

    set_up(settings.log_level, settings.log_format)
    wake_promptly()

    async def serve() -> None:
        specs = [
            ModelSpec(
                model.name,
                with_precision(model.source, settings.dtype, settings.accept_accuracy),
                model.max_batch,
            )
            for model in settings.models
        ]
        pool = WorkerPool(specs)
        await Server(settings, pool, click.echo, control_token=token, observers=observers).run()

    with contextlib.ExitStack() as stack:
        observers: list[RequestObserver] = [AccessLog()] if settings.log_level == "debug" else []
        if settings.tracing:
            observers.append(stack.enter_context(contextlib.closing(_tracing())))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())


command.params[:0] = settings_options(ServerSettings)


def _tracing() -> Tracing:
    try:
        from sponge_server.observability.tracing import Tracing
    except ImportError as error:
        raise SpongeError(needs_extra("--tracing", str(error.name), "tracing")) from None
    return Tracing()


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpongeError(f"control-token-file {path}: cannot be read: {error}") from None
    if not token:
        raise SpongeError(f"control-token-file {path}: the file is empty; write the token into it")
    return token
