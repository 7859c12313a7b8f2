"""Runs the schedule, first with Sponge and then with fixed sizes, and keeps what was seen.

A `sponge load` process of its own sends the requests, so that drawing charts delays none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TextIO

from sponge_client.outcomes import RequestRecord
from sponge_core.latency import LatencyModel
from sponge_core.quantities import cores_text
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.document import Story, cores_phrase, fixed_percents
from sponge_demo.progress import Phase
from sponge_demo.recording import Run, figures_of, sample_of
from sponge_demo.statics import next_static
from sponge_demo.workload import Workload, fit_workload
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["FIT", "START", "Session", "WholeLines", "run_phases"]

SAMPLE_S = 0.2
FOLLOW_S = 0.2
LOST_AFTER_S = 15.0
RUN_OVERHEAD_S = 5.0
"""The time of a run beyond its duration: the size is set, the load generator starts, the last answers come."""

START, FIT = "Starting the server and measuring its profile", "Looking for the smallest fixed size in the simulator"
EXPECTED_FIXED = 2
"""The smallest fixed size that keeps the target, and the next smaller one."""


def run_phases(duration_s: float, names: Sequence[str]) -> list[Phase]:
    """The phases of these runs."""
    return [Phase(name, duration_s + RUN_OVERHEAD_S) for name in names]


class Session:
    """One comparison.

    Args:
        story: what the page tells; runs and figures are added to it, and the workload where it has none.
        statics: fixed sizes to run after Sponge; None for the smallest one that reaches the target, and the
            next smaller.
        most_statics: bound on the number of fixed sizes.
        folder: for the schedule and the load generator's timelines; exists.
        enter: gets the name of each phase as it begins.
        say: gets a line for every step.
        fit: makes the workload for a measured profile.
    """

    def __init__(
        self,
        story: Story,
        backend: Backend,
        *,
        statics: Sequence[int] | None,
        most_statics: int,
        folder: Path,
        enter: Say,
        say: Say,
        fit: Callable[[Story, LatencyModel], Workload] | None = None,
    ) -> None:
        self._story = story
        self._backend = backend
        self._statics = statics
        self._most_statics = most_statics if statics is None else len(statics)
        self._folder = folder
        self._enter = enter
        self._say = say
        self._fit = fit or (lambda story, model: fit_workload(story.scenario, model, story.uplink))

    async def run(self) -> None:
        """All runs, one after the other, on one server.

        Raises:
            SpongeError: a run cannot be finished. No process is left behind.
        """
        self._enter(START)
        try:
            endpoint = await self._backend.start(self._story.scenario)
            if self._story.workload is None:
                await self._fit_workload()
            async with ControlClient() as client:
                await self._pass(endpoint, client, None)
                while (milli := self._next_static()) is not None:
                    await self._pass(endpoint, client, milli)
        finally:
            await asyncio.shield(self._backend.stop())

    async def _fit_workload(self) -> None:
        self._enter(FIT)
        story = self._story
        story.profile = await self._backend.profile()
        workload = await asyncio.to_thread(self._fit, story, story.profile)
        story.workload = workload
        self._say(
            f"One core answers {workload.capacity_rps:.1f} requests/s here, so the rate runs from "
            f"{min(workload.rates_rps):.1f} to {max(workload.rates_rps):.1f} requests/s"
        )
        if workload.fixed_milli is None:
            self._say(f"The simulator finds no fixed size that keeps {100 * story.scenario.target:g} %")
        else:
            self._say(
                f"The simulator's smallest fixed size that keeps {100 * story.scenario.target:g} %: "
                f"{cores_phrase(workload.fixed_milli)}"
            )

    def _next_static(self) -> int | None:
        tried = fixed_percents(self._story)
        if len(tried) >= self._most_statics:
            return None
        if self._statics is not None:
            return self._statics[len(tried)]
        scenario, workload = self._story.scenario, self._story.workload
        assert workload is not None
        expected = workload.fixed_milli or scenario.max_milli
        if expected in tried and tried[expected] < 100 * scenario.target and len(tried) == 1:
            text = f"A fixed {cores_phrase(expected)} kept less than the simulator expected"
            self._say(f"{text}; trying the next larger size")
        return next_static(scenario.sizes_milli, tried, expected, 100 * scenario.target)

    async def _pass(self, endpoint: Endpoint, client: ControlClient, static_milli: int | None) -> None:
        story = self._story
        assert story.workload is not None
        name = "Sponge" if static_milli is None else f"fixed {cores_text(static_milli)}"
        self._enter(name)
        await self._backend.hold(static_milli if static_milli is not None else story.workload.start_milli)
        run = Run(name, static_milli, samples=[], records=[])
        story.runs.append(run)
        self._say(f"{name}: {story.scheduled} requests in {story.scenario.duration_s:g} s")
        before = await self._backend.facts()
        await self._load(run, endpoint, client, self._backend.release if static_milli is None else None)
        self._finish(run, before, await self._backend.facts())

    def _finish(self, run: Run, before: PodFacts, after: PodFacts) -> None:
        if run.started_at is None or not run.samples:
            raise DemoError(f"{run.name}: nothing was seen of the run; look at the logs in {self._folder}")
        duration_s = self._story.scenario.duration_s
        self._story.figures.append(
            figures_of(run, duration_s, after.resizes - before.resizes, after.restarts - before.restarts)
        )

    async def _load(
        self, run: Run, endpoint: Endpoint, client: ControlClient, release: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Sends the schedule and looks at the server meanwhile.

        Args:
            release: called once the first request has ended: from then on Sponge chooses the size.
        """
        number = len(self._story.runs)
        timeline = self._folder / f"requests-{number}.jsonl"
        timeline.write_text("")
        process = await asyncio.create_subprocess_exec(
            *self._load_command(endpoint, timeline),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        sampling = asyncio.create_task(self._sample(run, endpoint, client))
        try:
            with timeline.open(encoding="utf-8") as stream:
                written = WholeLines(stream)
                while process.returncode is None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), FOLLOW_S)
                    _follow(run, written.new())
                    if release is not None and run.started_at is not None:
                        await release()
                        release = None
                    if sampling.done():
                        sampling.result()
            if process.returncode != 0:
                raise DemoError(
                    f"the load generator ended with {process.returncode}: {(await errors).decode().strip()}"
                )
        finally:
            sampling.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            await asyncio.wait({sampling, errors})

    def _load_command(self, endpoint: Endpoint, timeline: Path) -> list[str]:
        scenario, workload = self._story.scenario, self._story.workload
        assert workload is not None
        arrivals = self._folder / "arrivals.csv"
        arrivals.write_text("arrival_s\n" + "".join(f"{at:.6f}\n" for at in workload.arrivals))
        options = {
            "--url": endpoint.url,
            "--model": scenario.model,
            "--arrivals": str(arrivals),
            "--duration-s": f"{scenario.duration_s:g}",
            "--slo-ms": f"{scenario.slo_s * 1000:g}",
            "--bandwidth": "4g",
            "--bandwidth-from-s": f"{self._story.uplink_from_s:g}",
            "--payload-bytes": str(scenario.payload_bytes),
            "--seed": str(scenario.seed),
            "--timeline": str(timeline),
        }
        return [sys.executable, "-m", "sponge_cli.main", "load", *(word for pair in options.items() for word in pair)]

    async def _sample(self, run: Run, endpoint: Endpoint, client: ControlClient) -> None:
        """Looks at the server until cancelled. Raises DemoError when it stays away."""
        seen = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                state = await client.state(endpoint.control_url, endpoint.token)
            except ServerError as error:
                if began - seen > LOST_AFTER_S:
                    raise DemoError(f"{run.name}: the server no longer answers: {error}") from None
            else:
                seen = time.monotonic()
                run.samples.append(sample_of(time.time(), state))
            await asyncio.sleep(max(0.0, began + SAMPLE_S - time.monotonic()))


class WholeLines:
    """The lines of a file that another process writes. A line counts once its end is there."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun = ""

    def new(self) -> list[str]:
        """The lines that were completed since the last call, without their ends."""
        *whole, self._begun = (self._begun + self._stream.read()).split("\n")
        return whole


def _follow(run: Run, lines: Sequence[str]) -> None:
    """Takes up what the load generator wrote since the last time."""
    for line in lines:
        values = json.loads(line)
        sent_at = values.pop("sent_at")
        record = RequestRecord(**values)
        if run.started_at is None:
            run.started_at = sent_at - record.at_s
        run.records.append(record)
