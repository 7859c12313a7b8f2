"""Prints the decisions of the core in a made-up state, to compare the compiled core with the interpreted one.

As a program it reads one state a line from stdin, as JSON, and answers each with a line on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import DispatchState, Limits
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.forecast import Arrival, Forecaster
from sponge_core.latency import LatencyModel
from sponge_core.planning.frontier import project_frontier
from sponge_core.planning.projection import ProjectionInput, project


def decided(state: dict[str, Any]) -> str:
    """Every answer of the core to `state`, whose fields are those that `test_compiled_modules.py` draws."""
    now, cores, most = 10.0, state["cores"], state["cores"] * state["room"]
    models = [
        LatencyModel(
            gamma,
            delta,
            epsilon,
            eta,
            interference=interference,
            error=error,
            by_threads=tuple(by_threads),
            by_cell=tuple(tuple(row) for row in by_cell),
        )
        for (gamma, delta, epsilon, eta), interference, error, by_threads, by_cell in state["models"]
    ]
    queue, forecaster = EdfQueue(), Forecaster()
    for number, (model, waited, slo) in enumerate(state["requests"]):
        arrival = now - waited
        queue.push(Request(number, arrival, arrival + slo, model=model % len(models)))
    for at, slo in state["seen"]:
        forecaster.observe(at, slo, 0)
    coming = forecaster.forecast(now, 0.5)
    coming = sorted([*coming, *(Arrival(now + soon, now + soon + slo) for soon, slo in state["uploads"])])
    running = [Running(threads, left, now + due) for threads, left, due in state["running"]]
    limits = Limits(state["cap"], state["lanes"], most)
    given = ProjectionInput(
        now,
        # A queue has a list for each model from the first request of it on.
        [*queue.deadlines, *[[] for _ in models]][: len(models)],
        running,
        coming,
        cores,
        state["resize_s"],
        state["overhead"],
        [*queue.slos, *[[] for _ in models]][: len(models)],
    )
    sizes = sorted({max(1, round(1000 * most * part / 5)) for part in range(1, 6)})
    answers = [
        decide(DispatchState(now, queue, running, cores, models, limits)),
        decide(DispatchState(now, queue, running, cores, models, limits), sacrifice=False),
        project_frontier(given, sizes, models, limits),
        project_frontier(given, sizes, models, limits, counted=False),
        *(project(given, most, models, limits, sacrifice=sacrifice) for sacrifice in (False, True)),
        forecaster.rate(now),
        coming,
    ]
    return repr(answers)


def main() -> None:
    """Answers until stdin ends."""
    for line in sys.stdin:
        print(decided(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
