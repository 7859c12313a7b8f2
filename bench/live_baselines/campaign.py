"""Which runs there are, in which order, and which of them are still to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.live_baselines.replay import Seen, replay
from bench.live_baselines.schedules import Load, Target
from bench.live_baselines.systems import FIXED, SYSTEMS, System, fixed
from bench.serving.ledger import Ledger
from sponge_core.latency import LatencyModel

__all__ = ["KIND", "Piece", "fixed_milli", "next_fixed", "pieces", "smallest_fixed"]

KIND = "live-baseline"
FIXED_SIZES = tuple(range(250, 1501, 125))


@dataclass(frozen=True, slots=True)
class Piece:
    """One run. `name` is the system's; those of fixed sizes are told apart by their size."""

    name: str
    system: System
    load: Load
    params: Mapping[str, Any]


def next_fixed(kept: Mapping[int, bool], guess: int, sizes: Sequence[int] = FIXED_SIZES) -> int | None:
    """The fixed size to run next, in search of the smallest that keeps the target; None: it is found, or there is none.

    Args:
        kept: sizes that were run, and whether they kept the target.
        guess: the first size to run.
        sizes: all sizes, ascending.
    """
    if not kept:
        return guess
    good = min((size for size, does in kept.items() if does), default=None)
    if good is None:
        return next((size for size in sizes if size > max(kept)), None)
    below = max((size for size in sizes if size < good), default=None)
    return None if below in kept else below


def smallest_fixed(target: Target, load: Load, model: LatencyModel, seen: Seen) -> int:
    """The smallest fixed size that keeps the target in virtual time; the largest if none does."""
    for milli in FIXED_SIZES:
        if replay(target, load, fixed(milli), model, seen).in_time >= target.target:
            return milli
    return FIXED_SIZES[-1]


def fixed_milli(name: str) -> int:
    """The size in the name of a fixed size, such as fixed-750m."""
    return int(name.removeprefix(f"{FIXED}-").removesuffix("m"))


def pieces(
    ledger: Ledger, target: Target, loads: Sequence[Load], names: Sequence[str], seed: int, guesses: Mapping[str, int]
) -> Iterator[Piece]:
    """The runs that the ledger lacks, one schedule after the other. The caller adds each result before the next.

    Args:
        names: of the systems, and `fixed`.
        guesses: the fixed size to begin with, by schedule.
    """
    for load in loads:
        common = {
            "schedule": load.name,
            "seconds": load.schedule.duration_s,
            "seed": seed,
            "target": asdict(target),
        }
        for name in names:
            if name == FIXED:
                yield from _fixed_pieces(ledger, target, load, common, guesses[load.name])
                continue
            params = {**common, "system": name}
            if ledger.find(KIND, params) is None:
                yield Piece(name, SYSTEMS[name], load, params)


def _fixed_pieces(ledger: Ledger, target: Target, load: Load, common: Mapping[str, Any], guess: int) -> Iterator[Piece]:
    while True:
        runs = [run for run in ledger.of_kind(KIND, **common) if run["params"]["system"].startswith(FIXED)]
        kept = {fixed_milli(run["params"]["system"]): run["result"]["in_time"] >= target.target for run in runs}
        milli = next_fixed(kept, guess)
        if milli is None:
            return
        name = f"{FIXED}-{milli}m"
        yield Piece(name, fixed(milli), load, {**common, "system": name})
