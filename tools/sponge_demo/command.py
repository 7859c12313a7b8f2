"""`sponge demo`: the main job on this machine. Reads the options and puts the parts together."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sponge_cli.common_options import Number
from sponge_core.errors import SpongeError
from sponge_core.quantities import parse_cpu_milli

if TYPE_CHECKING:
    from sponge_core.latency import LatencyModel
    from sponge_demo.scenario import Scenario

__all__ = ["command"]

CLUSTER_RUN_S, LOCAL_RUN_S = 100.0, 70.0
MOST_STATICS = 4
SHIPPED_PROFILE = "resnet18-epyc"


@click.command(epilog="Example: sponge demo --backend local")
@click.option(
    "--backend",
    type=click.Choice(["auto", "cluster", "local"]),
    default="auto",
    show_default=True,
    help="A local Kubernetes, or a server in a cgroup of this machine; auto takes the cluster where it can run.",
)
@click.option(
    "--duration-s",
    type=Number(10, 600),
    help="Of each run.  [default: 100 in a cluster and in the simulator, 70 locally]",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the arrivals.")
@click.option(
    "--statics",
    default="auto",
    show_default=True,
    metavar="auto|none|SIZES",
    help="Fixed sizes to compare with, as in 500m,750m,1; auto takes the smallest that serves 99 % in time, and the "
    "next smaller.",
)
@click.option("--simulate", is_flag=True, help="Only simulate, with the profile that the last demo in --out measured.")
@click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True, help="With --simulate: how many, from --seed + 1."
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
def command(
    backend: str,
    duration_s: float | None,
    seed: int,
    statics: str,
    simulate: bool,
    seeds: int,
    port: int,
    out: Path,
    stay: bool | None,
) -> None:
    """Serve a model over replayed 4G uplinks, sized by Sponge and then by fixed sizes; watch it on a local page.

    The request rate rises and falls eightfold, with bursts. Each size gets the same schedule of requests, one after the
    other. Prints the comparison, and leaves a report with plots. Ctrl-C ends it early and cleans up.
    """
    from sponge_demo.scenario import Scenario

    sizes = _sizes(statics)
    if simulate:
        _simulate(Scenario(duration_s or CLUSTER_RUN_S, seed=seed), seeds, out)
        return
    _make(out)

    from sponge_demo.choose import choose_backend
    from sponge_demo.page import LivePage
    from sponge_demo.play import Play
    from sponge_demo.terminal import Terminal

    terminal = Terminal()
    with _sigterm_as_ctrl_c(), LivePage(port) as page:
        terminal.say(f"Watch it at {page.url}")
        chosen, is_cluster = choose_backend(backend, out, terminal.say)
        play = Play(
            backend=chosen,
            scenario=Scenario(duration_s or (CLUSTER_RUN_S if is_cluster else LOCAL_RUN_S), seed=seed),
            statics=sizes,
            most_statics=MOST_STATICS,
            folder=out,
            page=page,
            terminal=terminal,
        )
        play.run()
        if stay or (stay is None and sys.stdout.isatty()):
            terminal.say(f"The page stays at {page.url} until Ctrl-C.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


def _simulate(scenario: Scenario, count: int, out: Path) -> None:
    """Prints the story of other seeds in virtual time, as a table."""
    from sponge_demo.seeds import seed_table, simulate_seeds
    from sponge_demo.terminal import columns

    model, source = _measured_profile(out)
    click.echo(f"In virtual time, {scenario.duration_s:g} s each, latency profile {source}:", err=True)
    stories = list(simulate_seeds(scenario, model, range(scenario.seed + 1, scenario.seed + 1 + count), os.environ))
    for line in columns(seed_table(stories)):
        click.echo(line)


def _measured_profile(out: Path) -> tuple[LatencyModel, str]:
    """The profile that the last demo measured, else a shipped one; and where it comes from."""
    from sponge_core.latency import LatencyModel
    from sponge_profiles.profile import load_profile

    results = out / "results.json"
    if results.exists():
        try:
            values = json.loads(results.read_text(encoding="utf-8"))["profile"]
            if values is not None:
                values |= {"by_threads": (), "by_cell": ()}
                return LatencyModel(**values), f"measured by the demo in {out}"
        except (ValueError, KeyError, TypeError):
            raise SpongeError(f"--out {out}: results.json is not of this version; run `sponge demo` again") from None
    return load_profile(SHIPPED_PROFILE).latency_model(), f"{SHIPPED_PROFILE} (no demo has measured one in {out})"


def _sizes(statics: str) -> tuple[int, ...] | None:
    """Millicores of the fixed sizes; None to look for them."""
    if statics == "auto":
        return None
    if statics == "none":
        return ()
    try:
        sizes = tuple(parse_cpu_milli(word.strip()) for word in statics.split(","))
    except SpongeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise SpongeError(f"--statics {statics}: give auto, none or sizes such as 500m,750m,1")
    return sizes


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpongeError(f"--out {folder}: {error.strerror}; give a folder that can be made") from None


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """On SIGTERM the demo cleans up as on Ctrl-C."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
