"""Which fixed sizes to compare Sponge with; pure.

More cores never miss more, and each run takes minutes. The search starts at the size that the simulator expects, walks
from there to the two nearest sizes and then in doubling steps, because the answer is rarely far, and bisects once the
answer lies between two sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["next_static", "smallest_good"]


def next_static(
    sizes_milli: Sequence[int], tried: Mapping[int, float], expected_milli: float, target_percent: float
) -> int | None:
    """The size to run next; None once the smallest good one is known, or known to be larger than all.

    Args:
        sizes_milli: the sizes to choose from, ascending, not empty.
        tried: percent in time by size.
        expected_milli: where to start; the nearest size is taken.
    """
    if not tried:
        return min(sizes_milli, key=lambda milli: abs(milli - expected_milli))
    highest_bad = max((milli for milli, percent in tried.items() if percent < target_percent), default=0)
    lowest_good = smallest_good(tried, target_percent)
    between = [m for m in sizes_milli if m > highest_bad and (lowest_good is None or m < lowest_good)]
    if not between:
        return None
    if highest_bad and lowest_good:
        return between[(len(between) - 1) // 2]
    step = min(1 << max(0, len(tried) - 2), len(between))
    return between[step - 1] if highest_bad else between[-step]


def smallest_good(tried: Mapping[int, float], target_percent: float) -> int | None:
    """The smallest size that reached the target; None when none did."""
    return min((milli for milli, percent in tried.items() if percent >= target_percent), default=None)
