"""Starts of a worker pool that cannot succeed, or not without a warning: the message says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lane_pool import importable_models

from sponge_server.workers.interface import ModelError, ModelSpec, StartLimits
from sponge_server.workers.pool import WorkerPool

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    with importable_models():
        yield


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("never_loaded", r"not loaded within 5 s: it hangs.*--load-s"),
        ("never_done", r"takes more than 2 s for an example input: it hangs.*--example-s"),
        ("left_by_a_fork", r"kills its process on an example input \(exit code 3\)"),
        ("squeezed", r"fails on an example batch of 1: .* first dimension must be the batch, which squeeze\(\)"),
    ],
)
async def test_a_start_that_cannot_succeed_ends_and_says_why(source: str, message: str) -> None:
    limits = StartLimits(load_s=5.0 if source == "never_loaded" else 60.0, example_s=2.0)
    workers = WorkerPool([ModelSpec("m", f"python://lane_models:{source}", max_batch=8)], limits)
    try:
        with pytest.raises(ModelError, match=f"model m.*{message}"):
            await workers.start(1)
        assert workers.pids == []
    finally:
        await workers.close()


async def test_a_warm_up_that_hangs_says_so() -> None:
    workers = WorkerPool([ModelSpec("m", "python://lane_models:slow_for_many", 8)], StartLimits(example_s=2.0))
    try:
        await workers.start(1)
        with pytest.raises(ModelError, match=r"example batch of 8 on 1 threads within 2 s of the warm-up.*--example-s"):
            await workers.warm_up([1, 8], [1])
    finally:
        await workers.close()


async def test_nan_for_a_made_up_input_is_a_warning_that_names_the_output() -> None:
    workers = WorkerPool([ModelSpec("m", "python://lane_models:not_a_number", 4)])
    try:
        await workers.start(1)
        warning = workers.models[0].warning or ""
        assert "its output 'output' has NaN or Inf for a made-up input" in warning
        assert "set finite to false" in warning
        await workers.warm_up([1, 4], [1])
    finally:
        await workers.close()
