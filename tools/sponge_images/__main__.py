"""The command line of `make images`."""

from __future__ import annotations

import sys

import click

from sponge_cluster.progress import ConsoleProgress
from sponge_core.errors import SpongeError
from sponge_images import build
from sponge_images.engine import engine


@click.group()
def main() -> None:
    """Builds the images."""


@main.command(name="build")
@click.option("--torch-index", help="Index of torch's wheels; by default the one without CUDA if it can be reached.")
def build_images(torch_index: str | None) -> None:
    """Builds the images of operator and server, and prints their sizes."""
    progress = ConsoleProgress()
    with engine(progress) as docker:
        for image in build.build_all(docker, progress, torch_index):
            click.echo(f"{image.tag:24} {image.size / 1e6:7.0f} MB  built in {image.took_s:.0f} s")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SpongeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
