"""Measures the time of one dispatch decision with 1,000 requests in the queue.

python -m bench.decision_time
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from bench.bert_sizes import MEAN_LOG, SPREAD_LOG
from bench.options import arguments
from bench.results import SPONGE, new_table, save
from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import DispatchState, Limits
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.edf_queue import EdfQueue, Request
from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiles.profile import load_profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = 1000


@dataclass(frozen=True, slots=True)
class Scene:
    """One input of the dispatch rule."""

    name: str
    queue: EdfQueue
    running: tuple[Running, ...]
    cores: float
    models: Sequence[LatencyModel]


def waiting(low_s: float, high_s: float, rate: float, models: int = 1) -> EdfQueue:
    """A thousand requests. Their slacks lie between the two bounds; they arrived at `rate` until now (time 0)."""
    draw = random.Random(1)
    queue = EdfQueue()
    for number in range(WAITING):
        deadline = draw.uniform(low_s, high_s)
        queue.push(Request(number, (number - WAITING) / rate, deadline, model=number % models))
    return queue


def scenes() -> list[Scene]:
    """Typical and worst cases."""
    model = load_profile("resnet18").latency_model()
    other = replace(model, gamma=model.gamma / 2)
    three = tuple(Running(1, 0.05 * i, 2.0) for i in range(1, 4))
    fifteen = tuple(Running(1, 0.02 * i, 2.0) for i in range(1, 16))
    return [
        Scene("backlog, one of 4 threads free", waiting(0.4, 1.0, 100), three, 4.0, [model]),
        Scene("backlog, one of 16 threads free", waiting(0.4, 1.0, 400), fifteen, 16.0, [model]),
        Scene("16 threads free at once, loose", waiting(0.6, 1.0, 400), (), 16.0, [model]),
        Scene("16 threads free at once, tight", waiting(0.03, 0.2, 400), (), 16.0, [model]),
        Scene("threads held for a tight head", waiting(0.012, 0.05, 100), fifteen, 16.0, [model]),
        Scene("overload, many to shed", waiting(0.05, 1.0, 2000), fifteen, 16.0, [model]),
        Scene("two models, 16 threads free", waiting(0.1, 1.0, 400, models=2), (), 16.0, [model, other]),
    ]


def sized_scenes() -> list[Scene]:
    """The same where the requests differ in size."""
    draw = random.Random(1)
    curve = SizeCurve((0.0, 1 / 64, 0.0), (0.0, 1 / 64, 0.0))
    sized = replace(load_profile("resnet18").latency_model(), sizes=curve)
    found = []
    for scene in scenes()[:6]:
        sizes = (float(round(draw.lognormvariate(MEAN_LOG, SPREAD_LOG))) for _ in scene.queue)
        requests = [replace(request, size=size) for request, size in zip(scene.queue, sizes, strict=True)]
        found.append(Scene(f"{scene.name}, many sizes", EdfQueue(requests), scene.running, scene.cores, [sized]))
    return found


def measure(scene: Scene, repeat: int) -> list[float]:
    """Seconds of each of `repeat` decisions. A decision changes nothing, so every repetition does the same work."""
    limits = Limits(16, int(scene.cores), scene.cores)
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        decide(DispatchState(0.0, scene.queue, scene.running, scene.cores, scene.models, limits))
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measures every scene, prints a table, writes JSON and a plot."""
    parser = arguments(__doc__)
    options = parser.parse_args()
    repeat = 200 if options.short else 3000
    title = f"one decision with {WAITING} requests waiting, microseconds"
    table = new_table(title, ["scene"], ["launched", "given up", "p50", "p99"])
    rows: list[dict[str, Any]] = []
    for scene in [*scenes(), *sized_scenes()]:
        seconds = measure(scene, repeat)
        limits = Limits(16, int(scene.cores), scene.cores)
        made = decide(DispatchState(0.0, scene.queue, scene.running, scene.cores, scene.models, limits))
        p50, p99 = (float(x) * 1e6 for x in np.percentile(seconds, (50, 99)))
        rows.append({"scene": scene.name, "launches": len(made.launches), "sheds": len(made.sheds), "p50_us": p50})
        rows[-1]["p99_us"] = p99
        table.add_row(scene.name, str(len(made.launches)), str(len(made.sheds)), f"{p50:.0f}", f"{p99:.0f}")
    Console().print(table)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.barh([str(row["scene"]) for row in rows], [row["p50_us"] for row in rows], color=SPONGE)
        axes.set_xlabel("microseconds, median")
        axes.set_title(f"one decision with {WAITING} requests waiting")

    save(options.out, "decision_time", {"waiting": WAITING, "rows": rows}, draw)


if __name__ == "__main__":
    main()
