"""Numbers on the command line: what is none is refused by every command."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from sponge_cli.common_options import Number
from sponge_cli.main import cli


def leaves(name: str, found: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    """A command, or those in its group."""
    if not isinstance(found, click.Group):
        yield name, found
        return
    for each in found.list_commands(context):
        inner = found.get_command(context, each)
        assert inner is not None
        yield from leaves(f"{name} {each}", inner, context)


def test_every_number_is_finite() -> None:
    """Click takes nan for a number in any range."""
    ranges = [
        (name, option.name, type(option.type))
        for name, found in leaves("sponge", cli, click.Context(cli))
        for option in found.params
        if isinstance(option.type, click.FloatRange)
    ]
    assert len(ranges) > 10
    assert [each for each in ranges if each[2] is not Number] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "x"])
def test_what_is_no_number_is_refused(value: str) -> None:
    done = CliRunner().invoke(cli, ["plan", "resnet18", "--rate", value])
    assert (done.exit_code, "--rate" in done.output) == (2, True)
