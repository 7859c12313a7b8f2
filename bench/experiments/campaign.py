"""Runs what has not been run yet, on all cores, and keeps every result at once: an interrupted campaign goes on.

Knows neither what a run does nor what becomes of the results.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.experiments.catalogue import Experiment
from bench.experiments.runs import Case, run
from bench.serving.ledger import Ledger

__all__ = ["Found", "cases", "run_missing"]

NICENESS = 10

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


def run_missing(experiments: Iterable[Experiment], ledger: Ledger, processes: int) -> dict[str, Found]:
    """The results of all cases by experiment, those that are there from the ledger, the others run now."""
    wanted = {experiment.name: [(case, case.parameters()) for case in cases(experiment)] for experiment in experiments}
    missing = [pair for pairs in wanted.values() for pair in pairs if ledger.find(pair[0].experiment, pair[1]) is None]
    _run(missing, sum(map(len, wanted.values())), ledger, processes)
    return {name: [(case, _result(ledger, case, own)) for case, own in pairs] for name, pairs in wanted.items()}


def _result(ledger: Ledger, case: Case, parameters: dict[str, Any]) -> dict[str, Any]:
    kept = ledger.find(case.experiment, parameters)
    assert kept is not None, "it was run, or found"
    return dict(kept["result"])


def _run(missing: Sequence[tuple[Case, dict[str, Any]]], total: int, ledger: Ledger, processes: int) -> None:
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
