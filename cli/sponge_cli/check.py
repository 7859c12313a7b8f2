"""`sponge check`: loads and runs a model source, and says what is missing."""

from __future__ import annotations

import json

import click

from sponge_cli.common_options import Number

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge check file:///models/m.pt2
  sponge check python://mypackage.models:Classifier?threshold=0.5 --max-batch 16
  sponge check hf:///models/bert --memory 2Gi --json

Exits with 0 if the model can be served, perhaps with warnings, and with 2 if it cannot.
"""

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


class _Size(click.ParamType[int]):
    """A size as Kubernetes writes it."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from sponge_server.setting_values import bytes_or_none

        try:
            size = bytes_or_none(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        assert isinstance(size, int)
        return size


@click.command(epilog=EXAMPLE)
@click.argument("source")
@click.option("--max-batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Largest batch to run.")
@click.option("--memory", type=_Size(), metavar="BYTES", help="Memory that the model may use, as 512Mi. Default: all.")
@click.option("--load-s", type=Number(0.1), default=600.0, show_default=True, help="Longest time to load.")
@click.option("--example-s", type=Number(0.1), default=120.0, show_default=True, help="Longest time for a batch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(source: str, max_batch: int, memory: int | None, load_s: float, example_s: float, as_json: bool) -> None:
    """Load SOURCE as the server does, run it, and say what is missing.

    It runs batches of 1 to --max-batch on a lane, compares the answers of the same rows alone and in a batch, and
    measures time and memory.
    """
    from rich.console import Console

    from sponge_server.check import run
    from sponge_server.workers.interface import StartLimits
    from sponge_system.logs import set_up

    set_up("warning")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status("starting") as status:
        report = run(
            source, max_batch, StartLimits(load_s, example_s), memory, lambda text: status.update(f"{text} ...")
        )
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        for finding in report.findings:
            level = click.style(f"{finding.level:<7}", fg=_COLOURS[finding.level])
            click.echo(f"{level} {finding.what:<8} {finding.text}")
        if report.good:
            most = max_batch if report.info is None else report.info.max_batch  # 1 without a batch
            click.echo(f"serve it with: sponge serve --model NAME={source} --max-batch {most}")
    if not report.good:
        raise SystemExit(2)
