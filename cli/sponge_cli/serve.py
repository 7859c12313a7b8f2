"""`sponge serve`: settings to a server on its loop.

The options are the fields of `sponge_server.settings.ServerSettings`: add a new one there, and only there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sponge_cli.options import SettingsCommand, render, resolve, settings_options
from sponge_core.dispatch.registry import POLICIES
from sponge_server.settings import ServerSettings

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

Several models share cores and lanes, in one order of deadlines. A value such as b=200 is for model b only; a value
without a name is for every other model.

A flag overrides its environment variable, which overrides the file, which overrides the default. The file is YAML, or
TOML if its name ends in .toml; its keys are the flags without the leading dashes.

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
    help="Show every setting and its origin, as a file for --config, and exit.",
)
def command(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve one model or several; every request by its own deadline.

    Speaks the Open Inference Protocol (V2), REST and gRPC; see /docs on the data port. Prints one line when ready.
    On SIGTERM it answers the accepted requests, then exits.
    """
    resolved = resolve(ServerSettings, flags, config)
    if print_config:
        click.echo(render(resolved))
        return
    from sponge_server.main import serve

    serve(resolved.settings, click.echo)


command.params[:0] = settings_options(ServerSettings)
