"""A demo from opening its backend to the closing table; whatever happens, the backend is closed again."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sponge_core.errors import SpongeError
from sponge_demo.backend import Backend
from sponge_demo.document import Progress, Story, build_document
from sponge_demo.page import LivePage
from sponge_demo.report import write_json, write_picture, write_report
from sponge_demo.scenario import Scenario, uplink_of
from sponge_demo.session import Session
from sponge_demo.terminal import Terminal
from sponge_workload.arrivals import poisson_arrivals

__all__ = ["Play"]

REPORT, PICTURES, FIGURES = "report.html", ("sponge.svg", "sponge.png"), "results.json"


@dataclass(frozen=True, slots=True)
class Play:
    """One demo; the options are those of the command."""

    backend: Backend
    duration_s: float
    statics: Sequence[int] | None
    most_statics: int
    folder: Path
    page: LivePage
    terminal: Terminal

    def run(self) -> None:
        """Plays it to its end. Raises SpongeError, or KeyboardInterrupt when it was ended early."""
        scenario = Scenario(self.duration_s)
        trace, from_s = uplink_of(scenario, os.environ)
        arrivals = poisson_arrivals(scenario.rate_rps, scenario.duration_s, scenario.seed)
        story = Story(
            scenario=scenario,
            uplink=trace.starting_at(from_s),
            uplink_from_s=from_s,
            scheduled=sum(at < scenario.duration_s for at in arrivals),
            backend=self.backend.description,
        )
        try:
            try:
                self._open(story)
                asyncio.run(self._session(story).run())
            finally:
                self.terminal.say("Cleaning up")
                self.backend.close()
        except BaseException as error:
            reason = str(error) if isinstance(error, SpongeError) else "ended early"
            self._close(story, Progress("failed", f"Stopped: {reason}"))
            raise
        self._close(story, Progress("done", "Done", 1.0))

    def _open(self, story: Story) -> None:
        def say(text: str) -> None:
            self.terminal.say(text)
            self.page.publish(build_document(story, Progress("preparing", text), time.time()))

        say("Preparing")
        self.backend.open(say)
        story.backend = self.backend.description
        story.details = _details(story)
        self.terminal.say(f"On {story.backend}; uplink: {_uplink(story)}")

    def _session(self, story: Story) -> Session:
        def publish(document: dict[str, Any]) -> None:
            self.page.publish(document)
            self.terminal.progress(document)

        return Session(
            story,
            self.backend,
            statics=self.statics,
            most_statics=self.most_statics,
            folder=self.folder,
            publish=publish,
            say=self.terminal.say,
        )

    def _close(self, story: Story, progress: Progress) -> None:
        """Shows and writes what there is: nothing but the reason if not even the first run has ended."""
        del story.runs[len(story.figures) :]
        report = self.folder / REPORT if story.figures else None
        story.report = str(report) if report else None
        document = build_document(story, progress, time.time())
        if report:
            write_report(document, report)
            write_json(document, self.folder / FIGURES)
            for name in PICTURES:
                write_picture(document, self.folder / name)
        self.page.publish(document, report)
        if report:
            self.terminal.table(document)
            self.terminal.say(f"Report: {report}")


def _uplink(story: Story) -> str:
    trace, from_s = story.uplink, story.uplink_from_s
    if from_s == 0:
        return f"{trace.name}, from its start"
    return f"{trace.name}, from second {from_s:.0f}, so that its worst second comes in each run"


def _details(story: Story) -> list[tuple[str, str]]:
    """What one needs to know to repeat it."""
    scenario = story.scenario
    sizes = f"{scenario.min_milli}m to {scenario.max_milli}m in steps of {scenario.step_milli}m"
    return [
        ("command", " ".join(["sponge", *sys.argv[1:]])),
        ("version", version("sponge-serving")),
        ("ran on", f"{story.backend}; {os.cpu_count()} CPUs"),
        ("model", f"{scenario.source}, latency profile {scenario.profile}"),
        ("sizes", f"{sizes}; batches up to {scenario.max_batch}"),
        ("requests", f"Poisson, {scenario.rate_rps:g}/s, seed {scenario.seed}, {scenario.payload_bytes} bytes each"),
        ("deadline", f"{scenario.slo_s * 1000:g} ms after a request was due to be sent, its upload included"),
        ("uplink", _uplink(story)),
        ("counted", "in time of all that were sent; p99 of those answered; cores as the kernel's quota, by time"),
    ]
