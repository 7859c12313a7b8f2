"""`sponge compile`: turns a model source into an AOTInductor package for `sponge serve`."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge compile torchvision://resnet18?weights=none -o resnet18.pt2 --max-batch 8
  sponge compile file:///models/exported.pt2 -o compiled.pt2 --max-batch 16 --dtype bf16
  sponge serve --model resnet18=file://$PWD/resnet18.pt2
"""


@click.command(epilog=EXAMPLE)
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--max-batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Largest batch.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "bf16", "auto"]),
    default="fp32",
    show_default=True,
    help="bf16 needs a CPU that computes in it, and answers that stay the same; auto falls back to fp32.",
)
@click.option("--accept-accuracy", is_flag=True, help="Accept bf16 even if its answers differ by more than allowed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(source: str, output: Path, max_batch: int, dtype: str, accept_accuracy: bool, as_json: bool) -> None:
    """Compile SOURCE for this machine's kind of CPU and write a package that serves it.

    The package takes any batch up to --max-batch on any number of threads. Its answers are compared with those of the
    uncompiled model first. FILE.json, beside it, describes it to `sponge serve`. Needs a C++ compiler.
    """
    from rich.console import Console

    from sponge_server.models.compiling import compile_model
    from sponge_server.models.source import with_options
    from sponge_system.logs import set_up

    set_up("warning")
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status("importing torch") as status:

        def step(text: str) -> None:
            console.print(f"{text} ...")
            status.update(text)

        made = compile_model(with_options(source, None, dtype, accept_accuracy), output, max_batch, step)
    if as_json:
        click.echo(json.dumps(made.as_dict()))
        return
    click.echo(
        f"{made.path}: {made.size_bytes / 1e6:.1f} MB, batches of 1 to {made.max_batch}; its answers differ by at most "
        f"{made.largest_difference:.2g} ({made.relative_error:.2g} of their size) from the uncompiled model's, over "
        f"{len(made.checked)} batch sizes and thread counts"
    )
    click.echo(f"serve it with: sponge serve --model NAME=file://{made.path.resolve()} --max-batch {made.max_batch}")
