"""The paper's integer program against the search of its prototype."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from sponge_core.latency import LatencyModel
from sponge_core.planning.paper import PaperPlanner


def search(model: LatencyModel, rate: float, budget_ms: float, cores: int, batches: int) -> tuple[int, int] | None:
    """Cores ascending, then batches ascending; the first that fits."""
    for c in range(1, cores + 1):
        for b in range(1, batches + 1):
            if math.ceil(rate / b) * math.floor(model.latency(b, c) * 1000 + 1e-9) <= budget_ms:
                return c, b
    return None


@settings(max_examples=30)
@given(
    st.builds(
        LatencyModel,
        gamma=st.floats(0.01, 0.2),
        delta=st.floats(0.001, 0.05),
        epsilon=st.floats(0, 0.05),
        eta=st.floats(0, 0.05),
    ),
    st.integers(1, 60),
    st.integers(0, 900),
)
def test_the_program_finds_what_an_exhaustive_search_finds(model: LatencyModel, rate: int, network_ms: int) -> None:
    plan = PaperPlanner(model, max_cores=8, max_batch=6).plan(rate, 1.0, network_ms / 1000)
    found = search(model, rate, 900 - network_ms, 8, 6)
    assert ((plan.cores, plan.batch) if plan.feasible else None) == found
    if plan.feasible:
        assert plan.predicted_ms == model.latency(plan.batch, plan.cores) * 1000
