"""Entry point of the `sponge` command: finds the subcommand, maps errors to exit codes.

Subcommands load on demand, so `sponge plan` does not import torch or kopf. A SpongeError becomes one line on stderr and
exit code 2, and so does a package that is not installed; an interrupt becomes 130. Any other exception is a bug and
keeps its traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from types import FrameType

import click

import sponge_compiled as compiled
from sponge_core.errors import DISTRIBUTION, SpongeError, needs_extra

__all__ = ["COMMANDS_GROUP", "SUBCOMMANDS", "main"]


@dataclass(frozen=True, slots=True)
class _Subcommand:
    """Where a subcommand's `command` is, what the help says, and the extra of the distribution that it needs."""

    module: str
    help: str
    extra: str | None


SUBCOMMANDS = {
    "serve": _Subcommand("sponge_cli.serve", "Serve a model; every request by its own deadline.", "server"),
    "check": _Subcommand("sponge_cli.check", "Load and run a model, and say what is missing.", "server"),
    "compile": _Subcommand("sponge_cli.compile", "Compile a model ahead of time, for faster serving.", "server"),
    "operator": _Subcommand("sponge_cli.operator", "Run the Kubernetes operator.", "operator"),
    "front": _Subcommand("sponge_cli.front", "Choose the pod of each request, for a proxy before a service.", "front"),
    "profile": _Subcommand("sponge_cli.profile", "Measure how long batches take on how many threads.", "profile"),
    "plan": _Subcommand("sponge_cli.plan", "Ask a planner for cores and batch size.", "simulator"),
    "tune": _Subcommand("sponge_cli.tune", "Find the cheapest configuration that keeps an SLO.", "simulator"),
    "simulate": _Subcommand("sponge_cli.simulate", "Compare scaling policies in virtual time.", "simulator"),
    "load": _Subcommand("sponge_cli.load", "Send an open-loop load with deadlines.", None),
}

HIDDEN = {"profile-worker": _Subcommand("sponge_profiler.worker", "", "server")}
"""Subcommands that `sponge` itself starts."""

COMMANDS_GROUP = "sponge.commands"
"""Entry points of this group are further subcommands: a `click.Command` each, in a module that is quick to import."""


class _LazyGroup(click.Group):
    """Lists the subcommands without importing what they use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SUBCOMMANDS, *_added()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command: click.Command | None = None
        if (known := SUBCOMMANDS.get(cmd_name) or HIDDEN.get(cmd_name)) is not None:
            command = importlib.import_module(known.module).command
        elif (added := _added().get(cmd_name)) is not None:
            command = added.load()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, known.help) for name, known in SUBCOMMANDS.items()])
        if added := _added():
            with formatter.section("Commands of installed tools"):
                formatter.write_dl([(name, entry.load().get_short_help_str(60)) for name, entry in added.items()])


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=COMMANDS_GROUP)}


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SPONGE"},
    epilog="Every command has --help with an example. An error that you can repair exits with 2 and says how.",
)
@click.version_option(
    version(DISTRIBUTION), prog_name="sponge", message=f"%(prog)s, version %(version)s, core {compiled.kind()}"
)
def cli() -> None:
    """Sponge keeps every inference request inside its own deadline with the fewest CPU cores."""


def main() -> None:
    """Runs the command line and exits."""
    if os.getpid() == 1:
        # The kernel drops a SIGTERM that the first process of a container does not handle. A server handles it once it
        # has started; a pod that is deleted before that would use up its whole grace period.
        signal.signal(signal.SIGTERM, _end)
    try:
        code = cli(standalone_mode=False)
    except SpongeError as error:
        click.echo(f"sponge: {error}", err=True)
        code = 2
    except ModuleNotFoundError as error:
        hint = _install_hint(next((word for word in sys.argv[1:] if not word.startswith("-")), ""), error)
        if hint is None:
            raise
        click.echo(f"sponge: {hint}", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("sponge: interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _install_hint(name: str, error: ModuleNotFoundError) -> str | None:
    """What to install for a subcommand that misses a package; None if an installation cannot explain the error."""
    package = (error.name or "").partition(".")[0]
    if not package or package.startswith("sponge_"):
        return None
    hint = None
    if (known := SUBCOMMANDS.get(name) or HIDDEN.get(name)) is not None:
        if known.extra is not None:
            hint = needs_extra(f"sponge {name}", package, known.extra)
    elif (added := _added().get(name)) is not None and added.dist is not None:
        hint = f"sponge {name} needs {package}, which {added.dist.name} brings: pip install {added.dist.name}"
    return hint


if __name__ == "__main__":
    main()
