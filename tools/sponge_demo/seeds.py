"""The demo's story in virtual time for several seeds: does it depend on one?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sponge_core.latency import LatencyModel
from sponge_demo.scenario import Scenario, uplink_of
from sponge_demo.virtual import virtual_run
from sponge_demo.workload import fit_workload

__all__ = ["SeedStory", "seed_table", "simulate_seeds"]


@dataclass(frozen=True, slots=True)
class SeedStory:
    """What the simulator says of one seed. Percent in time of all `sent`; sizes in millicores.

    Attributes:
        fixed_milli: the smallest fixed size that keeps the target; None if none does.
        smaller_percent: of the next smaller size; None if there is none.
        ratio: Sponge's mean cores over those of the smallest fixed size that keeps the target.
    """

    seed: int
    sent: int
    sponge_percent: float
    sponge_cores: float
    fixed_milli: int | None
    fixed_percent: float | None
    smaller_percent: float | None
    ratio: float | None


def simulate_seeds(
    scenario: Scenario, model: LatencyModel, seeds: Sequence[int], environment: Mapping[str, str]
) -> Iterator[SeedStory]:
    """The same scenario with each of `seeds`: other arrivals, other bursts, another uplink where it is synthetic."""
    for seed in seeds:
        seeded = replace(scenario, seed=seed)
        trace, from_s = uplink_of(seeded, environment)
        uplink = trace.starting_at(from_s)
        workload = fit_workload(seeded, model, uplink)
        sponge = virtual_run(seeded, workload.arrivals, uplink, model, start_milli=workload.start_milli)
        good, tried = workload.fixed_milli, workload.fixed_runs
        smaller = [size for size in tried if good is not None and size < good]
        yield SeedStory(
            seed=seed,
            sent=sponge.sent,
            sponge_percent=sponge.in_time_percent,
            sponge_cores=sponge.mean_cores,
            fixed_milli=good,
            fixed_percent=tried[good].in_time_percent if good is not None else None,
            smaller_percent=tried[smaller[0]].in_time_percent if smaller else None,
            ratio=1000 * sponge.mean_cores / good if good is not None else None,
        )


def seed_table(stories: Sequence[SeedStory]) -> list[tuple[str, ...]]:
    """A head and one row per seed, as text."""
    head = ("seed", "requests", "Sponge in time", "mean cores", "smallest fixed", "in time", "next smaller", "ratio")
    return [head, *(_row(story) for story in stories)]


def _row(story: SeedStory) -> tuple[str, ...]:
    return (
        str(story.seed),
        str(story.sent),
        f"{story.sponge_percent:.2f} %",
        f"{story.sponge_cores:.2f}",
        "-" if story.fixed_milli is None else f"{story.fixed_milli / 1000:g}",
        _percent(story.fixed_percent),
        _percent(story.smaller_percent),
        "-" if story.ratio is None else f"{story.ratio:.2f}",
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"
