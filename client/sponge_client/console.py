"""Runs a load from a terminal: what `sponge load` calls. Shows progress, writes the timeline, handles Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from sponge_client.load import LoadRun, LoadSpec, prepare
from sponge_client.outcomes import RequestRecord, Summary, summarize
from sponge_client.wire import precise_loop, prioritize_process
from sponge_core.errors import SpongeError

__all__ = ["run_load"]

PROGRESS_S = 0.5


def run_load(spec: LoadSpec, timeline: Path | None) -> Summary:
    """Sends the load and waits for its answers.

    The first SIGINT or SIGTERM stops the sending; the second gives up the requests that have no answer yet.

    Args:
        timeline: file for one JSON object a line, written as each request ends.

    Raises:
        SpongeError: the load cannot be sent, or the timeline cannot be written.
    """
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(_run(spec, timeline))


async def _run(spec: LoadSpec, timeline: Path | None) -> Summary:
    with contextlib.ExitStack() as stack:
        # Line by line, so that a reader can follow the run.
        sink = stack.enter_context(_open(timeline)) if timeline else None

        def write(record: RequestRecord) -> None:
            if sink is not None:
                sink.write(json.dumps({**record.as_dict(), "sent_at": run.started_at + record.at_s}) + "\n")

        run = await prepare(spec, write)
        prioritize_process()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _interrupt, run)
        if sys.stderr.isatty():
            drawing = loop.create_task(_draw(run, spec))
            stack.callback(drawing.cancel)
        await run.run()
    return summarize(run.records, run.duration_s)


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", buffering=1, encoding="utf-8")
    except OSError as error:
        raise SpongeError(f"--timeline {path}: {error.strerror}; give a file in a folder that exists") from None


def _interrupt(run: LoadRun) -> None:
    stop: Callable[[], None] = run.abandon if run.stopped else run.stop
    stop()


async def _draw(run: LoadRun, spec: LoadSpec) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    # Drawn by the event loop: a thread that draws could delay requests at any moment.
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=spec.duration_s)
        while True:
            elapsed_s = min(max(run.elapsed_s, 0.0), spec.duration_s)
            ended = sum(run.counts.values())
            share = f"{run.counts['in_time'] / ended:.1%}" if ended else "-"
            text = f"{elapsed_s:.0f} of {spec.duration_s:.0f} s   ended {ended}   in time {share}   open {run.open}"
            bar.update(task, completed=elapsed_s, description=text, refresh=True)
            await asyncio.sleep(PROGRESS_S)
