"""Campaigns: the runs, their order, and which of them the ledger already holds.

A visit is one start of one server and its runs. Generators yield visit by visit, so a campaign can run in pieces.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.serving.ledger import Ledger
from bench.serving.measure import Timing, bare, open_loop, settle, warm_up
from bench.serving.schedule import MIXES, make_shots
from bench.serving.servers import serving
from bench.serving.systems import SYSTEMS, Knobs
from sponge_core.errors import SpongeError
from sponge_workload.files import load_bandwidth

__all__ = [
    "LOADS",
    "Plan",
    "Visit",
    "capacity_now",
    "capacity_of",
    "goodput_visits",
    "measure_capacity",
    "perform",
    "tune_visits",
    "tuned",
]

LOADS = (0.5, 0.7, 0.9, 1.3, 2.0)
TUNING_SEED = 1001
"""Seed of the tuning schedules. The measured schedules use other seeds."""

PERFECT = 0.999
"""Attainment from which no other configuration is tried at that load."""

START_S = 22.0
"""Time of a visit for the reference loop, the server's start and its warm-up."""

AROUND_A_RUN_S = 2.5
CAPACITY_BATCHES = (1, 4, 8, 16)
YARDSTICK_S = 2.5


@dataclass(frozen=True, slots=True)
class Plan:
    """The scope of a campaign."""

    name: str
    cores: float
    timing: Timing
    systems: tuple[str, ...] = tuple(SYSTEMS)
    mixes: tuple[str, ...] = tuple(MIXES)
    loads: tuple[float, ...] = LOADS
    seeds: tuple[int, ...] = (1, 2, 3)


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
        params = {"campaign": plan.name, "cores": plan.cores, "seconds": seconds}
        params |= {"processes": processes, "threads": threads}
        run = ledger.find("capacity", params)
        if run is None:
            figures = bare(plan.cores, processes, threads, CAPACITY_BATCHES, seconds)
            run = ledger.add("capacity", params, {"figures": figures})
        yield from run["result"]["figures"]


def capacity_of(ledger: Ledger, plan: Plan) -> dict[str, Any]:
    """The best figure of the bare loop in this campaign. Raises SpongeError when it was not measured."""
    runs = ledger.of_kind("capacity", campaign=plan.name, cores=plan.cores)
    figures: list[dict[str, Any]] = [figure for run in runs for figure in run["result"]["figures"]]
    if not figures:
        raise SpongeError(
            f"campaign {plan.name!r} has no capacity at {plan.cores:g} cores: "
            f"run `python -m bench.serving capacity --campaign {plan.name}` first"
        )
    return max(figures, key=lambda figure: float(figure["images_per_s"]))


def capacity_now(ledger: Ledger, plan: Plan) -> float:
    """Measures the shape of the capacity again, briefly, because the machine's speed changes. In images per second."""
    best = capacity_of(ledger, plan)
    (figure,) = bare(plan.cores, best["processes"], best["threads"], [best["batch"]], YARDSTICK_S)
    return float(figure["images_per_s"])


def tune_visits(ledger: Ledger, plan: Plan, candidates: int) -> list[Visit]:
    """Every system's first `candidates` configurations at every load, lightest load first.

    Leaves out systems with a single configuration, and loads at which a configuration already had everything in time.
    """
    visits = []
    for name in plan.systems:
        choices = SYSTEMS[name].candidates(plan.cores)
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
        return SYSTEMS[system].candidates(plan.cores)[0]
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
                knobs = SYSTEMS[name].defaults if defaults else tuned(ledger, plan, name, mix, load)
                run = _params(ledger, plan, name, knobs, mix, load, seed)
                by_knobs.setdefault(repr(sorted(knobs.items())), (knobs, []))[1].append(run)
            kind = "defaults" if defaults else "goodput"
            visits += [Visit(kind, name, knobs, tuple(runs)) for knobs, runs in by_knobs.values()]
    return _left(ledger, visits)


def perform(ledger: Ledger, plan: Plan, visit: Visit, folder: Path) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Measures the capacity once more, starts the server, takes the runs, keeps and yields each (parameters, result). A
    backlog that a run leaves behind is waited for, and a server that does not get over it is started anew.

    Args:
        folder: for the servers' logs.
    """
    system = SYSTEMS[visit.system]
    uplink = load_bandwidth("4g", 1, os.environ)
    assert uplink is not None
    left = list(visit.runs)
    capacity = capacity_now(ledger, plan) if left else 0.0
    while left:
        with serving(system, visit.knobs, plan.cores, folder / f"{visit.system}.log") as server:
            warm_up(server)
            while left:
                params = left.pop(0)
                mix = MIXES[params["mix"]]
                shots = make_shots(mix, params["rate_rps"], params["duration_s"], params["seed"], uplink)
                result = {**open_loop(server, mix, shots, plan.timing), "capacity_rps": capacity}
                server.check()
                ledger.add(visit.kind, params, result)
                yield params, result
                if left and not settle(server):
                    break


def _tune_runs(ledger: Ledger, plan: Plan, system: str, mix: str, load: float) -> list[Mapping[str, Any]]:
    return ledger.of_kind("tune", campaign=plan.name, system=system, mix=mix, load=load, cores=plan.cores)


def _perfect(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the runs cannot be improved on."""
    return any(run["result"]["attainment"] >= PERFECT for run in runs)


def _params(ledger: Ledger, plan: Plan, system: str, knobs: Knobs, mix: str, load: float, seed: int) -> dict[str, Any]:
    return {
        "campaign": plan.name,
        "system": system,
        "version": SYSTEMS[system].version,
        "knobs": dict(knobs),
        "mix": mix,
        "load": load,
        "rate_rps": round(load * float(capacity_of(ledger, plan)["images_per_s"]), 1),
        "seed": seed,
        "cores": plan.cores,
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
