"""The memory model: never below the measurements, and the sizes that fit under a limit."""

from __future__ import annotations

import mmap
import os

from hypothesis import given
from hypothesis import strategies as st

from sponge_system.memory_growth import RESERVE_BYTES
from sponge_system.process_memory import MemoryModel, anonymous_bytes, private_bytes

MIB = 1 << 20
SIZE = st.integers(0, 1 << 33)


@given(SIZE, st.dictionaries(st.integers(1, 64), SIZE, min_size=1, max_size=8), st.integers(0, 1 << 22))
def test_no_point_needs_more_than_the_model_says(base: int, points: dict[int, int], shared: int) -> None:
    model = MemoryModel.of(base, sorted(points.items()), shared)
    for batch, size in points.items():
        assert model.need(1, batch) >= base + size + shared * batch - batch - 1  # rounded to whole bytes


@given(SIZE, SIZE, SIZE, st.integers(1, 1 << 38), st.integers(1, 16), st.integers(1, 64))
def test_what_fits_fits_and_one_more_does_not(
    base: int, lane: int, item: int, limit: int, lanes: int, batch: int
) -> None:
    model = MemoryModel(base, lane, item)
    found = model.fit(limit, lanes, batch)
    if found is None:
        assert model.need(1, 1) + RESERVE_BYTES > limit
        return
    count, rows = found
    assert 1 <= count <= lanes
    assert 1 <= rows <= batch
    assert model.need(count, rows) + RESERVE_BYTES <= limit
    if rows < batch:
        assert model.need(count, rows + 1) + RESERVE_BYTES > limit
    if count < lanes:
        assert model.need(count + 1, 1) + RESERVE_BYTES > limit


def test_rows_are_given_up_before_lanes() -> None:
    model = MemoryModel(500 * MIB, 50 * MIB, 10 * MIB)
    assert model.fit(900 * MIB, 2, 16) == (2, 11)
    assert model.fit(700 * MIB, 4, 16) == (2, 1)
    assert model.fit(600 * MIB, 4, 16) is None


def test_the_kernel_tells_of_this_process() -> None:
    before = private_bytes(os.getpid())
    assert before is not None
    # A mapping of its own: the allocator may have pages to hand out that the process holds already.
    kept = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    kept.write(os.urandom(MIB) * 32)
    after = private_bytes(os.getpid())
    assert after is not None
    assert after - before > 30 * MIB
    assert (anonymous_bytes(os.getpid()) or 0) > 30 * MIB
    assert private_bytes(2**22 + 1) is None
    kept.close()
