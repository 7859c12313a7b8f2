"""Runs the schedule, first with Sponge and then with fixed sizes, and keeps what was seen.

The load is sent by a `sponge load` process of its own, so that drawing charts delays no request. Knows a backend as a
place where a server starts and stops; draws and prints nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sponge_client.outcomes import Record
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.document import Progress, Story, build_document, cores_text, static_percents
from sponge_demo.recording import Run, figures_of, sample_of
from sponge_demo.statics import next_static
from sponge_operator.clients.server import ControlClient, ServerError

__all__ = ["Session"]

SAMPLE_S = 0.2
PUBLISH_S = 1.0
LOST_AFTER_S = 15.0
SETTLED_AFTER_S = 1.5
SETTLED_WITHIN_S = 15.0
FIRST_OVERHEAD_S = 20.0
"""What a run takes beyond its duration, until the first one has shown it."""


class Session:
    """One comparison.

    Args:
        story: what is told; runs and figures are added to it.
        statics: fixed sizes to run after Sponge; None finds the smallest one that reaches the target.
        most_statics: bound on those.
        folder: for the load generator's timelines; exists.
        publish: gets the document every second.
        say: gets a line for every step.
    """

    def __init__(
        self,
        story: Story,
        backend: Backend,
        *,
        statics: Sequence[int] | None,
        most_statics: int,
        folder: Path,
        publish: Callable[[dict[str, Any]], None],
        say: Say,
    ) -> None:
        self._story = story
        self._backend = backend
        self._statics = statics
        self._most_statics = most_statics if statics is None else len(statics)
        self._folder = folder
        self._publish = publish
        self._say = say
        self._overhead_s = FIRST_OVERHEAD_S

    async def run(self) -> None:
        """All runs, one after the other. Raises SpongeError when one cannot be finished; leaves no process behind."""
        async with ControlClient() as client:
            await self._pass(client, "Sponge", None)
            while (milli := self._next_static()) is not None:
                await self._pass(client, f"fixed {cores_text(milli)}", milli)

    def _next_static(self) -> int | None:
        tried = static_percents(self._story)
        if len(tried) >= self._most_statics:
            return None
        if self._statics is not None:
            return self._statics[len(tried)]
        scenario = self._story.scenario
        mean = self._story.figures[0].mean_cores * 1000
        return next_static(scenario.sizes_milli, tried, mean, scenario.target * 100)

    async def _pass(self, client: ControlClient, name: str, static_milli: int | None) -> None:
        began = time.monotonic()
        scenario = self._story.scenario
        self._tell(f"{name}: starting a server")
        self._say(f"{name}: starting a server")
        try:
            endpoint = await self._backend.start(scenario, static_milli)
            run = Run(name, static_milli, samples=[], records=[])
            self._story.runs.append(run)
            await _settled(endpoint, client)
            self._say(f"{name}: {self._story.scheduled} requests in {scenario.duration_s:g} s")
            before = await self._backend.facts()
            await self._load(run, endpoint, client)
            after = await self._backend.facts()
        finally:
            await asyncio.shield(self._backend.stop())
        self._finish(run, before, after)
        self._overhead_s = max(0.0, time.monotonic() - began - scenario.duration_s)

    def _finish(self, run: Run, before: PodFacts, after: PodFacts) -> None:
        if run.started_at is None or not run.samples:
            raise DemoError(f"{run.name}: nothing was seen of the run; look at the logs in {self._folder}")
        duration_s = self._story.scenario.duration_s
        self._story.figures.append(
            figures_of(run, duration_s, after.resizes - before.resizes, after.restarts - before.restarts)
        )

    async def _load(self, run: Run, endpoint: Endpoint, client: ControlClient) -> None:
        """Sends the schedule, and looks at the server meanwhile."""
        timeline = self._folder / f"requests-{len(self._story.runs)}.jsonl"
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
                while process.returncode is None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), PUBLISH_S)
                    _follow(run, stream.readlines())
                    self._tell_run(run)
                    if sampling.done():
                        sampling.result()
            if process.returncode != 0:
                raise DemoError(f"the load ended with {process.returncode}: {(await errors).decode().strip()}")
        finally:
            sampling.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            await asyncio.wait({sampling, errors})

    def _load_command(self, endpoint: Endpoint, timeline: Path) -> list[str]:
        scenario = self._story.scenario
        options = {
            "--url": endpoint.url,
            "--model": scenario.model,
            "--arrivals": scenario.arrivals,
            "--rate": f"{scenario.rate_rps:g}",
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

    def _tell_run(self, run: Run) -> None:
        scenario = self._story.scenario
        elapsed_s = 0.0 if run.started_at is None else min(time.time() - run.started_at, scenario.duration_s)
        self._tell(f"{run.name}: {max(0.0, elapsed_s):.0f} of {scenario.duration_s:g} s", max(0.0, elapsed_s))

    def _tell(self, phase: str, elapsed_s: float = 0.0) -> None:
        scenario = self._story.scenario
        one_s = scenario.duration_s + self._overhead_s
        ended, planned = len(self._story.figures), 1 + self._most_statics
        left_s = max(0.0, (planned - ended) * one_s - elapsed_s)
        number = f"run {ended + 1} of {'at most ' if self._statics is None and planned > 1 else ''}{planned}"
        left = f"{number}, {_duration(left_s)} left"
        progress = Progress("running", phase, min(1.0, 1 - left_s / (planned * one_s)), left)
        self._publish(build_document(self._story, progress, time.time()))


async def _settled(endpoint: Endpoint, client: ControlClient) -> None:
    """Returns once the size has stayed the same for a while: the way down from the start is not part of the run."""
    since = began = time.monotonic()
    cores: int | None = None
    while time.monotonic() - since < SETTLED_AFTER_S and time.monotonic() - began < SETTLED_WITHIN_S:
        with contextlib.suppress(ServerError):
            state = await client.state(endpoint.control_url, endpoint.token)
            if state.cores_milli != cores:
                cores, since = state.cores_milli, time.monotonic()
        await asyncio.sleep(SAMPLE_S)


def _follow(run: Run, lines: Sequence[str]) -> None:
    """Takes up what the load generator wrote since the last time."""
    for line in lines:
        values = json.loads(line)
        sent_at = values.pop("sent_at")
        record = Record(**values)
        if run.started_at is None:
            run.started_at = sent_at - record.at_s
        run.records.append(record)


def _duration(seconds: float) -> str:
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
