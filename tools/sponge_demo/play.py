"""A demo from opening its backend to the closing table; the backend is closed again whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from sponge_core.errors import SpongeError
from sponge_demo.backend import Backend
from sponge_demo.document import Progress, Story, build_document, cores_phrase
from sponge_demo.page import LivePage
from sponge_demo.progress import Phase, Phases, duration_text
from sponge_demo.report import write_json, write_picture, write_report
from sponge_demo.scenario import Scenario, uplink_of
from sponge_demo.session import EXPECTED_FIXED, FIT, START, Session, run_phases
from sponge_demo.terminal import Terminal

__all__ = ["Play"]

REPORT, PICTURES, FIGURES = "report.html", ("sponge.svg", "sponge.png"), "results.json"
PUBLISH_S = 1.0
FIT_S = 4.0
CLOSE = "Cleaning up"


@dataclass(frozen=True, slots=True)
class Play:
    """One demo; the fields are the options of the command."""

    backend: Backend
    scenario: Scenario
    statics: Sequence[int] | None
    most_statics: int
    folder: Path
    page: LivePage
    terminal: Terminal

    def run(self) -> None:
        """Plays the demo to its end. Raises SpongeError, or KeyboardInterrupt if it was ended early."""
        trace, from_s = uplink_of(self.scenario, os.environ)
        story = Story(
            scenario=self.scenario,
            uplink=trace.starting_at(from_s),
            uplink_from_s=from_s,
            backend=self.backend.description,
        )
        teller = _Teller(story, self.page, self.terminal, Phases(self._phases(), time.monotonic()))
        try:
            with teller.telling():
                try:
                    self.backend.open(teller.say, teller.enter)
                    story.backend = self.backend.description
                    self.terminal.say(f"On {story.backend}; uplink: {_uplink(story)}")
                    asyncio.run(self._session(story, teller).run())
                finally:
                    teller.enter(CLOSE)
                    self.backend.close()
        except BaseException as error:
            reason = str(error) if isinstance(error, SpongeError) else "ended early"
            self._close(story, Progress("failed", f"Stopped: {reason}"))
            raise
        self._close(story, Progress("done", "Done", 1.0))

    def _phases(self) -> list[Phase]:
        fixed = EXPECTED_FIXED if self.statics is None else len(self.statics)
        return [
            *(self.backend.opening or (Phase("Preparing", 1.0),)),
            Phase(START, self.backend.start_s),
            Phase(FIT, FIT_S),
            *run_phases(self.scenario.duration_s, ["Sponge", *(f"fixed size {number + 1}" for number in range(fixed))]),
            Phase(CLOSE, self.backend.close_s),
        ]

    def _session(self, story: Story, teller: _Teller) -> Session:
        return Session(
            story,
            self.backend,
            statics=self.statics,
            most_statics=self.most_statics,
            folder=self.folder,
            enter=teller.enter,
            say=self.terminal.say,
        )

    def _close(self, story: Story, progress: Progress) -> None:
        """Shows and writes the runs that have ended, or only the reason if there is none."""
        del story.runs[len(story.figures) :]
        report = self.folder / REPORT if story.figures else None
        story.report = str(report) if report else None
        story.details = _details(story)
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


@dataclass(slots=True)
class _Teller:
    """Shows the progress once a second, on the page and the terminal, from a thread of its own."""

    story: Story
    page: LivePage
    terminal: Terminal
    phases: Phases
    detail: str = ""
    _ends: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells while in its context."""
        thread = threading.Thread(target=self._run, name="demo progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ends.set()
            thread.join()

    def enter(self, name: str) -> None:
        """The phase `name` begins."""
        self.detail = ""
        if name != self.phases.current.name:
            self.phases.enter(name, time.monotonic())
        left = duration_text(self.phases.left_s(time.monotonic()))
        self.terminal.say(f"{name}  ({left} left)")

    def say(self, text: str) -> None:
        """A step of the present phase."""
        self.detail = text
        self.terminal.say(text)

    def _run(self) -> None:
        while True:
            document = build_document(self.story, self._progress(), time.time())
            self.page.publish(document)
            self.terminal.progress(document)
            if self._ends.wait(PUBLISH_S):
                return

    def _progress(self) -> Progress:
        now, phase = time.monotonic(), self.phases.current.name
        running = self.story.runs[-1] if len(self.story.runs) > len(self.story.figures) else None
        if running is not None and running.name == phase and running.started_at is not None:
            elapsed_s = min(max(0.0, time.time() - running.started_at), self.story.scenario.duration_s)
            phase = f"{phase}: {elapsed_s:.0f} of {self.story.scenario.duration_s:g} s"
        elif self.detail:
            phase = self.detail
        state = "running" if self.story.runs else "preparing"
        left = f"{duration_text(self.phases.left_s(now))} left"
        return Progress("running" if state == "running" else "preparing", phase, self.phases.share(now), left)


def _uplink(story: Story) -> str:
    trace, from_s = story.uplink, story.uplink_from_s
    if from_s == 0:
        return f"{trace.name}, from its start"
    return f"{trace.name}, from second {from_s:.0f}, so that each run holds its worst second"


def _details(story: Story) -> list[tuple[str, str]]:
    """Everything that one needs to know to repeat the demo."""
    scenario, workload, profile = story.scenario, story.workload, story.profile
    sizes = f"{scenario.min_milli}m to {scenario.max_milli}m in steps of {scenario.step_milli}m"
    details = [
        ("command", " ".join(["sponge", *sys.argv[1:]])),
        ("version", version("sponge-serving")),
        ("ran on", f"{story.backend}; {os.cpu_count()} CPUs"),
        ("model", f"{scenario.source}, latency profile: {scenario.profile}"),
        ("sizes", f"{sizes}; batches up to {scenario.max_batch}"),
    ]
    if profile is not None:
        rows = range(1, scenario.max_batch + 1)
        times = ", ".join(f"{count}: {1000 * profile.latency(count, 1):.0f} ms" for count in rows)
        details.append(("batches", f"on one core, by number of requests: {times}; measured before the runs"))
    if workload is not None:
        rates = f"{min(workload.rates_rps):.1f} to {max(workload.rates_rps):.1f}/s in two waves, and bursts"
        text = f"{story.scheduled} of {scenario.payload_bytes} B in each run; Poisson, {rates}, seed {scenario.seed}"
        if workload.capacity_rps is not None:
            text += f"; one core answers {workload.capacity_rps:.1f}/s"
        details.append(("requests", text))
        expected = "none" if workload.fixed_milli is None else cores_phrase(workload.fixed_milli)
        details.append(("simulator", f"smallest fixed size that keeps {100 * scenario.target:g} %: {expected}"))
        details.append(("start", f"Sponge's run begins at {workload.start_milli}m"))
    return [
        *details,
        ("deadline", f"{scenario.slo_s * 1000:g} ms after a request was due to be sent; its upload counts"),
        ("uplink", _uplink(story)),
        ("counted", "in time of all that were sent; p99 of those answered; cores as the kernel's quota, by time"),
    ]
