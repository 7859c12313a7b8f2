"""The size for a steady rate."""

from __future__ import annotations

from projection_states import MODEL, SIZES

from sponge_core.planning.steady import plan_steady


def test_a_steady_load_is_sized_before_anything_runs() -> None:
    found = plan_steady(20.0, 0.9, SIZES, MODEL, 8)
    assert found is not None
    assert found[0] in (3000, 4000)  # the work alone is 20/s * 110 ms = 2.2 cores, less when batched
    assert plan_steady(20.0, 0.01, SIZES, MODEL, 8) is None
