"""The plan for many services rests on measured costs alone, and adds up."""

from __future__ import annotations

from typing import Any

import pytest
from bench.hollow_nodes import PODS_EACH
from bench.operator_plan import SHARD_CORES, Costs, costs_of, plan
from bench.operator_scale import CHANGES_PER_S
from hypothesis import given
from hypothesis import strategies as st

from sponge_core.errors import SpongeError

COSTS = Costs(0.02, 0.0001, 100.0, 0.2, 0.03, 0.01, 3.0, 0.02, 400)


def measured(services: int) -> dict[str, Any]:
    """Results as they would be at exactly these costs."""
    rest = COSTS.base_cores + services * COSTS.service_cores
    return {
        "services": services,
        "rest_cores": rest,
        "rest_mib": COSTS.base_mib + services * COSTS.service_mib,
        "rest_calls": 5.0,
        "change_cores": rest + CHANGES_PER_S * COSTS.edit_core_s,
        "resizes_per_s": 8.0,
        "resize_cores": rest + 8.0 * COSTS.resize_core_s,
        "resize_calls": 5.0 + 8.0 * COSTS.resize_calls,
        "rest_control_cores": 0.1,
        "resize_control_cores": 0.1 + 8.0 * COSTS.resize_control_core_s,
    }


def test_costs_come_back_from_what_was_measured() -> None:
    found = costs_of([measured(100), measured(400)])
    assert found.largest == 400
    for name in Costs.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(COSTS, name)), name


def test_one_number_of_services_is_no_line() -> None:
    with pytest.raises(SpongeError, match="two numbers of services"):
        costs_of([measured(100), measured(100)])


def test_results_from_before_there_were_resizes_are_refused() -> None:
    with pytest.raises(SpongeError, match="with 100 services have no resizes; run"):
        costs_of([{**measured(100), "resizes_per_s": 0.0}, measured(400)])


@given(services=st.integers(1, 200_000), busy=st.floats(0, 1), resizes=st.floats(0, 2), edits=st.floats(0, 100))
def test_no_shard_has_more_than_its_part(services: int, busy: float, resizes: float, edits: float) -> None:
    found = plan(COSTS, services, busy, resizes, edits)
    assert found.cores / found.shards <= SHARD_CORES + 1e-9
    assert found.shards == 1 or found.cores > (found.shards - 2) * SHARD_CORES
    assert (found.nodes - 1) * PODS_EACH < services <= found.nodes * PODS_EACH
    assert found.resizes_per_s == pytest.approx(services * busy * resizes)


def test_an_operator_that_fills_a_shard_by_itself_cannot_be_planned() -> None:
    full = Costs(0.6, 0.0, 100.0, 0.2, 0.03, 0.01, 3.0, 0.02, 400)
    with pytest.raises(SpongeError, match=r"without services takes 0\.60 core"):
        plan(full, 10, 0.1, 0.3, 1.0)
