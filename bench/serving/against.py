"""This checkout's server beside another checkout's, taking turns: does a change make the server slower?

Both servers run for the whole comparison, each in a cgroup of its own, and only one has requests at a time. The order
changes with each round. So what the machine does to one it does to the other, too, and the difference of a round says
more than two runs at different times: on a shared machine, the latency of one server varies by ten percent from minute
to minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from bench.serving.measure import closed_loop, warm_up
from bench.serving.overhead import CLIENTS, THINK_S
from bench.serving.servers import Server, serving
from bench.serving.systems.interface import Knobs, Launch
from bench.serving.systems.sponge import Sponge
from sponge_core.errors import SpongeError

__all__ = ["Comparison", "Figure", "compare"]

ALONE_S = 4.0
SATURATED_S = 6.0

Figure = Literal["one at a time, ms", "saturated, per second"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both servers, round by round."""

    figure: Figure
    ours: Sequence[float]
    theirs: Sequence[float]

    def __str__(self) -> str:
        change, error = self.change()
        return (
            f"{self.figure:<22} other {fmean(self.theirs):6.1f}   this {fmean(self.ours):6.1f}   "
            f"change {change:+.1%} ± {error:.1%} ({len(self.ours)} rounds, one standard error)"
        )

    def change(self) -> tuple[float, float]:
        """The mean relative change of the rounds from theirs to ours, and its standard error."""
        changes = [ours / theirs - 1 for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return fmean(changes), stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.inf


class _Checkout(Sponge):
    """Sponge as another checkout has it, with that checkout's environment."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._python = root / ".venv" / "bin" / "python"
        if not self._python.exists():
            raise SpongeError(f"{root}: no environment in .venv; run make setup there first")

    def launch(self, python: Path, port: int, knobs: Knobs, cores: float) -> Launch:  # noqa: ARG002
        launch = super().launch(self._python, port, knobs, cores)
        return replace(launch, env={**launch.env, "PYTHONPATH": str(self._root)})


def compare(other: Path, rounds: int, cores: float, folder: Path) -> tuple[Comparison, Comparison]:
    """Latency of single requests, and throughput under 16 patient clients, of this and the `other` checkout.

    Args:
        other: root of a checkout with an environment of its own.
        cores: the CPU limit of each server.
        folder: for the servers' logs.

    Raises:
        SpongeError: a server does not start or gives no right answer, or the other checkout has no environment.
    """
    with ExitStack() as stack:
        systems: Mapping[str, Sponge] = {"this": Sponge(), "other": _Checkout(other.resolve())}
        servers = {
            name: stack.enter_context(serving(system, system.defaults, cores, folder / f"against-{name}.log"))
            for name, system in systems.items()
        }
        for server in servers.values():
            warm_up(server)
        alone: dict[str, list[float]] = {name: [] for name in servers}
        full: dict[str, list[float]] = {name: [] for name in servers}
        for number in range(rounds):
            for name, server in _in_turn(servers, number):
                alone[name].append(closed_loop(server, 1, ALONE_S, THINK_S)["p50_ms"])
            for name, server in _in_turn(servers, number):
                full[name].append(closed_loop(server, CLIENTS, SATURATED_S)["throughput_rps"])
    return (
        Comparison("one at a time, ms", alone["this"], alone["other"]),
        Comparison("saturated, per second", full["this"], full["other"]),
    )


def _in_turn(servers: Mapping[str, Server], number: int) -> list[tuple[str, Server]]:
    order = list(servers.items())
    return order if number % 2 else order[::-1]
