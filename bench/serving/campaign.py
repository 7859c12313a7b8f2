"""Campaigns: the runs, their order, and which of them the ledger already holds.

A visit is one start of one server and its runs. Generators yield visit by visit, so a campaign can run in pieces.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.serving.ledger import Ledger
from bench.serving.measure import Timing, bare, open_loop, settle, warm_up
from bench.serving.schedule import MIXES, make_shots
from bench.serving.servers import serving
from bench.serving.systems import SYSTEMS, Knobs, System
from bench.serving.workloads import DEFAULT, Served
from sponge_core.errors import SpongeError
from sponge_workload.files import load_bandwidth

__all__ = [
    "Plan",
    "Visit",
    "Yardstick",
    "capacity_of",
    "goodput_visits",
    "measure_capacity",
    "perform",
    "tune_visits",
    "tuned",
]

TUNING_SEED = 1001
"""Seed of the tuning schedules. The measured schedules use other seeds."""

PERFECT = 0.999
"""Attainment from which no other configuration is tried at that load."""

START_S = 22.0
"""Time of a visit for the reference loop, the server's start and its warm-up."""

AROUND_A_RUN_S = 2.5
CAPACITY_BATCHES = (1, 4, 8, 16)
YARDSTICK_S = 2.5
FRESH_S = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The scope of a campaign."""

    name: str
    cores: float
    timing: Timing
    systems: tuple[str, ...]
    mixes: tuple[str, ...]
    loads: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    served: Served = DEFAULT

    @property
    def runs(self) -> dict[str, Any]:
        """Parameters that all runs of the campaign have."""
        served = {"workload": self.served.workload.name, "runtime": self.served.runtime}
        return {"campaign": self.name, **served, "cores": self.cores}

    def system(self, name: str) -> System:
        return SYSTEMS[self.served.workload.name][name](self.served)


@dataclass(frozen=True, slots=True)
class Visit:
    """One start of a server and the parameters of its runs, in order."""

    kind: str
    system: str
    knobs: Knobs
    runs: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    def within(self, budget_s: float) -> Visit:
        """The first of its runs that fit into about `budget_s`."""
        ends = itertools.accumulate((run["duration_s"] + AROUND_A_RUN_S for run in self.runs), initial=START_S)
        fitting = sum(end <= budget_s for end in list(ends)[1:])
        return replace(self, runs=self.runs[:fitting])


def measure_capacity(ledger: Ledger, plan: Plan, seconds: float) -> Iterator[dict[str, Any]]:
    """Measures the bare loop at every sensible shape, once per campaign. Yields each figure."""
    whole = math.ceil(plan.cores)
    for processes, threads in dict.fromkeys(((whole, 1), (1, whole))):
        params = {**plan.runs, "seconds": seconds, "processes": processes, "threads": threads}
        run = ledger.find("capacity", params)
        if run is None:
            figures = bare(plan.served, plan.cores, processes, threads, CAPACITY_BATCHES, seconds)
            run = ledger.add("capacity", params, {"figures": figures})
        yield from run["result"]["figures"]


def capacity_of(ledger: Ledger, plan: Plan) -> dict[str, Any]:
    """The best figure of the bare loop in this campaign. Raises SpongeError when it was not measured."""
    runs = ledger.of_kind("capacity", **plan.runs)
    figures: list[dict[str, Any]] = [figure for run in runs for figure in run["result"]["figures"]]
    if not figures:
        raise SpongeError(
            f"campaign {plan.name!r} has no capacity for {plan.served.workload.name} in {plan.served.runtime} at "
            f"{plan.cores:g} cores: run `python -m bench.serving capacity --campaign {plan.name}` with the same options"
        )
    return max(figures, key=lambda figure: float(figure["rows_per_s"]))


class Yardstick:
    """The shape of the capacity, measured again and again, because the machine's speed changes."""

    def __init__(self, ledger: Ledger, plan: Plan) -> None:
        self._ledger, self._plan = ledger, plan
        self._at, self._rows_per_s = -math.inf, 0.0

    def rows_per_s(self) -> float:
        """Of less than a minute and a half ago; measured anew if there is none."""
        if time.monotonic() - self._at > FRESH_S:
            best, plan = capacity_of(self._ledger, self._plan), self._plan
            (figure,) = bare(plan.served, plan.cores, best["processes"], best["threads"], [best["batch"]], YARDSTICK_S)
            self._at, self._rows_per_s = time.monotonic(), float(figure["rows_per_s"])
        return self._rows_per_s


def tune_visits(ledger: Ledger, plan: Plan, candidates: int) -> list[Visit]:
    """Every system's first `candidates` configurations at every load, lightest load first.

    Leaves out systems with a single configuration, and loads at which a configuration already had everything in time.
    """
    visits = []
    for name in plan.systems:
        choices = plan.system(name).candidates(plan.cores)
        if len(choices) < 2:
            continue
        for knobs in choices[:candidates]:
            runs = [
                _params(ledger, plan, name, knobs, mix, load, TUNING_SEED)
                for load in plan.loads
                for mix in plan.mixes
                if not _perfect(_tune_runs(ledger, plan, name, mix, load))
            ]
            visits.append(Visit("tune", name, knobs, tuple(runs)))
    return _left(ledger, visits)


def tuned(ledger: Ledger, plan: Plan, system: str, mix: str, load: float) -> Knobs:
    """The configuration with the most goodput in tuning at this load, or the system's first one if none was tried."""
    runs = _tune_runs(ledger, plan, system, mix, load)
    if not runs:
        return plan.system(system).candidates(plan.cores)[0]
    best: Knobs = max(runs, key=lambda run: float(run["result"]["goodput_rps"]))["params"]["knobs"]
    return best


def goodput_visits(ledger: Ledger, plan: Plan, defaults: bool) -> list[Visit]:
    """Runs load by load, and at each load system by system, so that a drift of the machine affects all alike.

    Args:
        defaults: run every system with its defaults instead of its tuned configuration.
    """
    visits = []
    for number, load in enumerate(plan.loads):
        turn = number % len(plan.systems)  # rotates the first system
        for name in plan.systems[turn:] + plan.systems[:turn]:
            by_knobs: dict[str, tuple[Knobs, list[Mapping[str, Any]]]] = {}
            for mix, seed in itertools.product(plan.mixes, plan.seeds):
                knobs = plan.system(name).defaults if defaults else tuned(ledger, plan, name, mix, load)
                run = _params(ledger, plan, name, knobs, mix, load, seed)
                by_knobs.setdefault(repr(sorted(knobs.items())), (knobs, []))[1].append(run)
            kind = "defaults" if defaults else "goodput"
            visits += [Visit(kind, name, knobs, tuple(runs)) for knobs, runs in by_knobs.values()]
    return _left(ledger, visits)


def perform(
    ledger: Ledger, plan: Plan, visit: Visit, folder: Path, yardstick: Yardstick
) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Measures the capacity if it is old, starts the server, takes the runs, keeps and yields each with its parameters.
    A backlog that a run leaves behind is waited for, and a server that does not get over it is started anew.

    Args:
        folder: for the servers' logs.
    """
    system = plan.system(visit.system)
    uplink = load_bandwidth("4g", 1, os.environ)
    assert uplink is not None
    left = list(visit.runs)
    capacity = yardstick.rows_per_s() if left else 0.0
    while left:
        with serving(system, visit.knobs, plan.cores, folder / f"{visit.system}.log") as server:
            warm_up(server)
            while left:
                params = left.pop(0)
                mix = MIXES[params["mix"]].slowed(params["slower"])
                shots = make_shots(
                    mix, params["rate_rps"], params["duration_s"], params["seed"], uplink, len(system.workload.bodies())
                )
                result = {**open_loop(server, mix, shots, plan.timing), "capacity_rps": capacity}
                server.check()
                ledger.add(visit.kind, params, result)
                yield params, result
                if left and not settle(server):
                    break


def _tune_runs(ledger: Ledger, plan: Plan, system: str, mix: str, load: float) -> list[Mapping[str, Any]]:
    return ledger.of_kind("tune", **plan.runs, system=system, mix=mix, load=load)


def _perfect(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the runs cannot be improved on."""
    return any(run["result"]["attainment"] >= PERFECT for run in runs)


def _params(ledger: Ledger, plan: Plan, system: str, knobs: Knobs, mix: str, load: float, seed: int) -> dict[str, Any]:
    capacity = float(capacity_of(ledger, plan)["rows_per_s"])
    return {
        **plan.runs,
        "system": system,
        "version": plan.system(system).version,
        "knobs": dict(knobs),
        "mix": mix,
        "slower": plan.served.workload.slower(capacity),
        "load": load,
        "rate_rps": round(load * capacity, 1),
        "seed": seed,
        "duration_s": plan.timing.duration_s,
        "warmup_s": plan.timing.warmup_s,
        "hang_up_s": plan.timing.hang_up_s,
    }


def _left(ledger: Ledger, visits: Sequence[Visit]) -> list[Visit]:
    """The visits without their finished runs."""
    found = []
    for visit in visits:
        runs = tuple(run for run in visit.runs if ledger.find(visit.kind, run) is None)
        if runs:
            found.append(replace(visit, runs=runs))
    return found
