"""The reference page of the `sponge` command, from its own help."""

from __future__ import annotations

from collections.abc import Iterator

import click

from sponge_cli.main import cli
from sponge_docs.markdown import front

__all__ = ["cli_page", "commands"]

WIDTH = 100


def cli_page() -> str:
    """Markdown of the page."""
    parts = [
        front(
            "Command line",
            "What `sponge COMMAND --help` prints. An error that you can repair exits with 2 and says how; an interrupt "
            "exits with 130. `sponge cluster` and `sponge demo` are tools of the source tree; "
            "the wheel does not contain them.",
            "the command's own help",
        )
    ]
    for path, text in commands():
        parts.append(f"{'#' * min(3, len(path) + 1)} {' '.join(path)}\n\n```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[tuple[str, ...], str]]:
    """The words of each command and its help, `sponge` first."""
    yield from _below(cli, ("sponge",), None)


def _below(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    context = click.Context(
        command,
        parent=parent,
        info_name=path[-1],
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (child := command.get_command(context, name)) is not None:
                yield from _below(child, (*path, name), context)
