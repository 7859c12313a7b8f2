"""Runs the missing cases on all cores and saves every result at once, so an interrupted campaign continues."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.experiments.catalogue import Experiment
from bench.experiments.runs import Case, run
from bench.serving.ledger import Ledger

__all__ = ["Found", "cases", "run_missing"]

NICENESS = 10

_Pair = tuple[Case, dict[str, Any]]

Found = list[tuple[Case, dict[str, Any]]]
"""Every case of an experiment with its figures."""


def cases(experiment: Experiment) -> list[Case]:
    """All runs of an experiment; cores over time are kept for the first seed of each policy."""
    single = len(experiment.variants) == 1
    return [
        Case(experiment.name, variant, policy, seed, trace=single and seed == 1)
        for seed in range(1, experiment.seeds + 1)
        for variant in experiment.variants
        for policy in experiment.policies
    ]


def run_missing(
    experiments: Iterable[Experiment], ledger: Ledger, processes: int, spot_check: bool = False
) -> dict[str, Found]:
    """The results of all cases by experiment, those that are there from the ledger, the others run now.

    Args:
        spot_check: where only the code has changed since a result, one seed is run anew, and the others are kept if it
            gives the same figures to the last digit.
    """
    wanted = {experiment.name: [(case, case.parameters()) for case in cases(experiment)] for experiment in experiments}
    pairs = [pair for own in wanted.values() for pair in own]
    if spot_check:
        _keep_what_has_not_changed(_missing(pairs, ledger), ledger, processes)
    missing = _missing(pairs, ledger)
    _run(missing, len(pairs), ledger, processes)
    return {name: [(case, _result(ledger, case, own)) for case, own in pairs] for name, pairs in wanted.items()}


def _missing(pairs: Iterable[_Pair], ledger: Ledger) -> list[_Pair]:
    return [(case, own) for case, own in pairs if ledger.find(case.experiment, own) is None]


def _keep_what_has_not_changed(missing: Sequence[_Pair], ledger: Ledger, processes: int) -> None:
    """Copies the results of the code before, for each policy and variant whose first seed comes out the same."""
    before = {name: _but_for_sources(ledger, name) for name in {case.experiment for case, _ in missing}}
    groups: dict[tuple[str, float, str], list[_Pair]] = defaultdict(list)
    for case, own in missing:
        if _without_sources(own) in before[case.experiment]:
            groups[case.experiment, case.variant.at, case.policy].append((case, own))
    samples = [own[0] for own in groups.values()]
    _run(samples, len(samples), ledger, processes)
    for (case, own), *others in groups.values():
        known = before[case.experiment]
        if _result(ledger, case, own) == known[_without_sources(own)]:
            for other, parameters in others:
                ledger.add(other.experiment, parameters, known[_without_sources(parameters)])


def _but_for_sources(ledger: Ledger, experiment: str) -> dict[str, dict[str, Any]]:
    """The newest result of each case, whatever the code was."""
    return {_without_sources(kept["params"]): dict(kept["result"]) for kept in ledger.of_kind(experiment)}


def _without_sources(parameters: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in parameters.items() if name != "sources"}, sort_keys=True)


def _result(ledger: Ledger, case: Case, parameters: dict[str, Any]) -> dict[str, Any]:
    kept = ledger.find(case.experiment, parameters)
    assert kept is not None, "it was run, or found"
    return dict(kept["result"])


def _run(missing: Sequence[_Pair], total: int, ledger: Ledger, processes: int) -> None:
    if not missing:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as progress,
        ProcessPoolExecutor(processes, initializer=os.nice, initargs=(NICENESS,)) as pool,
    ):
        task = progress.add_task("runs", total=total, completed=total - len(missing))
        futures = {pool.submit(run, case): (case, parameters) for case, parameters in missing}
        try:
            for future in as_completed(futures):
                case, parameters = futures[future]
                ledger.add(case.experiment, parameters, future.result())
                progress.update(task, advance=1, description=f"{case.experiment}: {case.policy}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interruption ends it now, not after all runs
            raise
