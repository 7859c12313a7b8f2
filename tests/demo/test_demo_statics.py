"""The search for the smallest fixed size, and the choice of backend."""

from __future__ import annotations

import pytest

from sponge_demo.choose import cluster_possible
from sponge_demo.statics import next_static, smallest_good

SIZES = (250, 375, 500, 625, 750, 875, 1000, 1125, 1250, 1375, 1500)


@pytest.mark.parametrize("smallest", [250, 500, 875, 1500, 9999])
@pytest.mark.parametrize("sponge", [100, 480, 1490])
def test_the_search_finds_the_smallest_good_size(smallest: int, sponge: float) -> None:
    tried: dict[int, float] = {}
    while (milli := next_static(SIZES, tried, sponge, 99.0)) is not None:
        assert milli not in tried
        tried[milli] = 99.5 if milli >= smallest else 80.0
    assert smallest_good(tried, 99.0) == (smallest if smallest in SIZES else None)
    assert len(tried) <= 7


@pytest.mark.parametrize(("smallest", "order"), [(500, [375, 500]), (625, [375, 500, 625]), (375, [375, 250])])
def test_an_answer_nearby_is_found_in_few_runs(smallest: int, order: list[int]) -> None:
    tried: dict[int, float] = {}
    while (milli := next_static(SIZES, tried, 420, 99.0)) is not None:
        tried[milli] = 99.5 if milli >= smallest else 80.0
    assert list(tried) == order


def test_the_first_size_costs_what_sponge_did() -> None:
    assert next_static(SIZES, {}, 520, 99.0) == 500
    assert next_static(SIZES, {}, 580, 99.0) == 625


@pytest.mark.parametrize(
    ("root", "docker", "go", "possible"),
    [
        (False, True, False, True),
        (True, False, True, True),
        (True, False, False, False),
        (False, False, True, False),
    ],
)
def test_where_a_cluster_can_run(root: bool, docker: bool, go: bool, possible: bool) -> None:
    found, why = cluster_possible(root, docker, go)
    assert found is possible
    assert why
