"""`sponge demo`: the main job on this machine. Reads the options and puts the parts together."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from sponge_core.errors import SpongeError

__all__ = ["command"]

CLUSTER_RUN_S, LOCAL_RUN_S = 180.0, 25.0
CLUSTER_STATICS, LOCAL_STATICS = 4, 1


@click.command(epilog="Example: sponge demo --backend local")
@click.option(
    "--backend",
    type=click.Choice(["auto", "cluster", "local"]),
    default="auto",
    show_default=True,
    help="A local Kubernetes, or a server in a cgroup of this machine; auto takes the cluster where it can run.",
)
@click.option(
    "--duration-s", type=click.FloatRange(10, 600), help="Of each run.  [default: 180 in a cluster, 25 locally]"
)
@click.option(
    "--statics",
    default="auto",
    show_default=True,
    metavar="auto|none|SIZES",
    help="Fixed sizes to compare with, as in 500m,750m,1; auto looks for the smallest that serves 99 % in time.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="Of the page; 0: any.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Folder for the report, the picture and the figures.",
)
@click.option("--stay/--no-stay", default=None, help="Keep the page until Ctrl-C at the end.  [default: on a terminal]")
def command(backend: str, duration_s: float | None, statics: str, port: int, out: Path, stay: bool | None) -> None:
    """Serve a model over replayed 4G uplinks, sized by Sponge and then by fixed sizes; watch it on a local page.

    Each gets the same schedule of requests, one after the other. Prints the comparison, and leaves a report with plots.
    Ctrl-C ends it early and cleans up.
    """
    from sponge_demo.choose import choose_backend
    from sponge_demo.page import LivePage
    from sponge_demo.play import Play
    from sponge_demo.terminal import Terminal

    sizes = _sizes(statics)
    _make(out)
    terminal = Terminal()
    with _sigterm_as_ctrl_c(), LivePage(port) as page:
        terminal.say(f"Watch it at {page.url}")
        chosen, is_cluster = choose_backend(backend, out, terminal.say)
        play = Play(
            backend=chosen,
            duration_s=duration_s or (CLUSTER_RUN_S if is_cluster else LOCAL_RUN_S),
            statics=sizes,
            most_statics=CLUSTER_STATICS if is_cluster else LOCAL_STATICS,
            folder=out,
            page=page,
            terminal=terminal,
        )
        play.run()
        if stay or (stay is None and sys.stdout.isatty()):
            terminal.say(f"The page stays at {page.url} until Ctrl-C.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def _sizes(statics: str) -> tuple[int, ...] | None:
    """Millicores of the fixed sizes; None to look for them."""
    if statics == "auto":
        return None
    if statics == "none":
        return ()
    try:
        sizes = tuple(_milli(word.strip()) for word in statics.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise SpongeError(f"--statics {statics}: give auto, none or sizes such as 500m,750m,1")
    return sizes


def _milli(text: str) -> int:
    return round(float(text[:-1])) if text.endswith("m") else round(float(text) * 1000)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpongeError(f"--out {folder}: {error.strerror}; give a folder that can be made") from None


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """A demo that is told to end cleans up as for Ctrl-C."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
