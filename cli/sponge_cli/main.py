"""Entry point of the `sponge` command: finds the subcommand, maps errors to exit codes.

Subcommands load on demand, so `sponge plan` never pays for torch or kopf. A SpongeError becomes one line on stderr and
exit code 2; an interrupt becomes 130; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint, entry_points, version

import click

import sponge_compiled as compiled
from sponge_core.errors import SpongeError

__all__ = ["main"]

SUBCOMMANDS = {
    "serve": "Serve a model; every request by its own deadline.",
    "compile": "Compile a model ahead of time, for faster serving.",
    "operator": "Run the Kubernetes operator.",
    "profile": "Measure how long batches take on how many threads.",
    "plan": "Ask a planner for cores and batch size.",
    "simulate": "Compare scaling policies in virtual time.",
    "load": "Send an open-loop load with deadlines.",
}

COMMANDS_GROUP = "sponge.commands"
"""Entry points of this group are further subcommands: a `click.Command` each. The source tree's tools bring some."""

HIDDEN = ("profile-worker",)
"""What `sponge` itself starts; not for people."""


class _LazyGroup(click.Group):
    """Lists the subcommands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*SUBCOMMANDS, *_added()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (added := _added().get(cmd_name)) is not None:
            loaded: click.Command = added.load()
            return loaded
        if cmd_name not in SUBCOMMANDS and cmd_name not in HIDDEN:
            return None
        module = importlib.import_module(f"sponge_cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))
        if added := _added():
            with formatter.section("Commands of installed tools"):
                formatter.write_dl([(name, entry.load().get_short_help_str(60)) for name, entry in added.items()])


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=COMMANDS_GROUP)}


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SPONGE"},
    epilog="Every command has --help with an example. Errors that you can repair exit with 2 and say how.",
)
@click.version_option(
    version("sponge-serving"), prog_name="sponge", message=f"%(prog)s, version %(version)s, core {compiled.kind()}"
)
def cli() -> None:
    """Sponge keeps every inference request inside its own deadline with the fewest CPU cores."""


def main() -> None:
    """Runs the command line and exits."""
    try:
        code = cli(standalone_mode=False)
    except SpongeError as error:
        click.echo(f"sponge: {error}", err=True)
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("sponge: interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
