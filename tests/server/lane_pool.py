"""What tests of a worker pool with real processes share: models to load, items to run, outcomes to wait for."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sponge_server.workers.interface import Item, ItemError, ModelSpec, Tensor

DEADLINE_S = 60.0
MOODY = ModelSpec("moody", "python://lane_models:moody", max_batch=8)


@contextmanager
def importable_models(**variables: str) -> Iterator[None]:
    """Context in which a fork server finds `lane_models`, and these variables in its environment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        for name, value in variables.items():
            patched.setenv(name, value)
        yield


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process
            await asyncio.sleep(0.005)


def item(*rows: tuple[float, ...]) -> Item:
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return Item((Tensor("x", "FP32", (len(rows), len(rows[0])), data),))


def doubled(outputs: tuple[Tensor, ...] | ItemError) -> list[float]:
    assert not isinstance(outputs, ItemError), outputs
    assert outputs[0].name == "doubled"
    return list(struct.unpack(f"<{len(outputs[0].data) // 4}f", outputs[0].data))
