"""`make test`: every part, one after the other where they need the cores, then how long each took and one summary.

    python tests/shared/everything.py

A part that fails does not keep the others from running. The exit code is 1 if any has failed. The types are checked
beside the start of the local cluster and the first end-to-end tests, which measure nothing: each uses one core.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "tests"
SPONGE = (sys.executable, "-m", "sponge_cli.main")
WORDS = {"failures": "failed", "tests": "passed", "skipped": "skipped", "errors": "error"}
"""Attributes of a JUnit report -> pytest's word, in pytest's order."""


@dataclass
class Part:
    """One target of the Makefile.

    Attributes:
        tests: its tests write a report, of which the summary counts.
    """

    name: str
    tests: bool = False
    seconds: float = 0.0
    ok: bool = False

    @property
    def report(self) -> Path:
        return OUT / f"{self.name}.xml"

    def run(self, output: TextIO | None = None) -> None:
        """Runs the target; its output goes where ours goes, or into the file."""
        command = ["make", "--no-print-directory", self.name]
        if self.tests:
            self.report.unlink(missing_ok=True)
            command.append(f"PYTEST_OPTIONS=--junitxml={self.report}")
        print(f"\n--- {self.name}", file=output, flush=True)
        begun = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=output, stderr=output, check=False)
        self.ok = done.returncode == 0
        self.seconds = time.monotonic() - begun

    def counts(self) -> Counter[str]:
        """Outcomes by pytest's word for them; a run that left no report is an error."""
        if not self.tests:
            return Counter()
        try:
            return counted(self.report.read_text(encoding="utf-8"))
        except (OSError, ElementTree.ParseError):
            return Counter(error=1)


def environment() -> dict[str, str]:
    """Ours without what the calling make left: its options would be given to the parts."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def counted(report: str) -> Counter[str]:
    """Outcomes of a JUnit report by pytest's word for them."""
    counts: Counter[str] = Counter()
    for suite in ElementTree.fromstring(report).iter("testsuite"):
        for kind, word in WORDS.items():
            counts[word] += int(suite.get(kind, 0))
    counts["passed"] -= counts["failed"] + counts["skipped"] + counts["error"]
    return counts


def summary(parts: Sequence[Part], seconds: float) -> str:
    """What each part took, then one line in the form of pytest's."""
    lines = [f"{part.name:9} {part.seconds:7.1f} s  {'passed' if part.ok else 'FAILED'}" for part in parts]
    counts = sum((part.counts() for part in parts), Counter[str]())
    shown = ", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word])
    took = f"{seconds:.2f}s ({timedelta(seconds=int(seconds))})"
    closing = f" {shown or 'no tests ran'} in {took} "
    return "\n".join((*lines, closing.center(80, "=")))


def cluster_state() -> str:
    """`running`, `stopped`, ..."""
    import sponge_cluster

    return str(sponge_cluster.status().state)


def main() -> int:
    """Runs all parts and returns the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    parts = lint, imports, unit, types, e2e, nodes = (
        *(Part("lint"), Part("imports"), Part("unit", tests=True), Part("types")),
        *(Part("e2e", tests=True), Part("e2e-nodes", tests=True)),
    )
    begun = time.monotonic()
    with ExitStack() as stack:
        lint.run()
        imports.run()
        unit.run()
        starting = None
        if cluster_state() == "stopped":
            if not os.environ.get("SPONGE_KEEP_CLUSTER"):
                stack.callback(subprocess.run, [*SPONGE, "cluster", "down"], cwd=ROOT, check=False)
            with (OUT / "cluster.log").open("w") as log:
                starting = subprocess.Popen([*SPONGE, "cluster", "up"], cwd=ROOT, stdout=log, stderr=log)
        checked = stack.enter_context((OUT / "types.log").open("w+"))
        checking = threading.Thread(target=types.run, args=(checked,))
        checking.start()
        if starting is not None and starting.wait() != 0:
            print((OUT / "cluster.log").read_text(), flush=True)
        e2e.run()
        checking.join()
        checked.seek(0)
        print(checked.read(), flush=True)
    # With the other cluster down, so that this one has the cores.
    nodes.run()
    print(f"\n{summary(parts, time.monotonic() - begun)}", flush=True)
    return 0 if all(part.ok for part in parts) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell starts its background jobs with SIGINT ignored, and the tests of Ctrl-C would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
