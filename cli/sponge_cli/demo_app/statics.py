"""Which fixed sizes to compare Sponge with; pure.

First the size that costs what Sponge did, then by bisection towards the smallest one that reaches the target: more
cores never miss more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["next_static", "smallest_good"]


def next_static(
    sizes_milli: Sequence[int], tried: Mapping[int, float], sponge_milli: float, target_percent: float
) -> int | None:
    """The size to run next; None when the smallest good one is known, or known to be beyond the largest.

    Args:
        sizes_milli: what may be run, ascending, not empty.
        tried: size to percent in time.
        sponge_milli: Sponge's mean size.
    """
    if not tried:
        return min(sizes_milli, key=lambda milli: abs(milli - sponge_milli))
    bad = [milli for milli, percent in tried.items() if percent < target_percent]
    good = [milli for milli, percent in tried.items() if percent >= target_percent]
    open_sizes = [
        milli
        for milli in sizes_milli
        if milli not in tried and milli > max(bad, default=0) and (not good or milli < min(good))
    ]
    return open_sizes[(len(open_sizes) - 1) // 2] if open_sizes else None


def smallest_good(tried: Mapping[int, float], target_percent: float) -> int | None:
    """The smallest size that reached the target; None when none did."""
    return min((milli for milli, percent in tried.items() if percent >= target_percent), default=None)
