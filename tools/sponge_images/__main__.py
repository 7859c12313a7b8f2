"""The command line of `make images` and `make test-kind`."""

from __future__ import annotations

import sys

import click

from sponge_cluster.progress import ConsoleProgress
from sponge_core.errors import SpongeError
from sponge_images import build
from sponge_images.engine import engine
from sponge_images.kind_test import KindTest, Tools


@click.group()
def main() -> None:
    """Builds the images, and tries them on a real kind cluster."""


@main.command(name="build")
@click.option("--torch-index", help="Index of torch's wheels; by default the one without CUDA if it can be reached.")
def build_images(torch_index: str | None) -> None:
    """Builds the images of operator and server, and prints their sizes."""
    progress = ConsoleProgress()
    with engine(progress) as docker:
        for image in build.build_all(docker, progress, torch_index):
            click.echo(f"{image.tag:24} {image.size / 1e6:7.0f} MB  built in {image.took_s:.0f} s")


@main.command(name="test-kind")
def test_kind() -> None:
    """Builds the images, loads them into a new kind cluster, installs the chart, and serves and resizes an example."""
    progress = ConsoleProgress()
    tools = Tools.find(progress)
    with engine(progress) as docker:
        built = {image.name: image for image in build.build_all(docker, progress)}
        test = KindTest(docker, tools, built, progress)
        test.run()
        for image in built.values():
            click.echo(f"{image.tag:44} {image.size / 1e6:7.0f} MB")
        for step, seconds in test.took.items():
            click.echo(f"{step:44} {seconds:7.1f} s")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SpongeError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
