"""The process in the pod of `sponge profile --in-cluster`: real lanes that run batches on request.

It reads one JSON object a line and answers each with one of the same `id`. It ends with its input, or after a while
without a request, so that it never outlives the measurement. It sets no CPU limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from sponge_core.errors import SpongeError
from sponge_system.cgroup import own_cpu_cgroup, read_quota_milli

if TYPE_CHECKING:
    from sponge_profiler.local import RunOn

__all__ = ["command"]

IDLE_S = 300.0
"""The process ends after this time without a request."""


@click.command(hidden=True)
@click.argument("source")
@click.option("--name", required=True)
@click.option("--max-batch", type=click.IntRange(1), required=True)
@click.option("--lanes", type=click.IntRange(1), required=True)
@click.option("--threads", type=click.IntRange(1), required=True)
def command(source: str, name: str, max_batch: int, lanes: int, threads: int) -> None:
    """Run batches of SOURCE as requested on standard input.

    {"id": 1, "batch": 4, "threads": 2} runs a batch; "size": 64 beside it asks for rows of that size.
    {"id": 2, "quota": true} asks for the CPU limit in force, and {"id": 3} for facts about the model and the machine.
    """
    asyncio.run(_serve(source, name, max_batch, lanes, threads))


async def _serve(source: str, name: str, max_batch: int, lanes: int, threads: int) -> None:
    from sponge_profiler.local import loaded, run_on, surroundings

    async with loaded(source, name, max_batch, lanes, threads) as model:
        sizes = None if model.sizes is None else model.sizes.model_dump(mode="json")
        about = {"platform": model.platform, "warning": model.warning, "memory": model.memory, "sizes": sizes}
        await _answer_all(partial(run_on, model.pool), about | {"surroundings": surroundings(source)})


async def _answer_all(run_batch: RunOn, about: Mapping[str, Any]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as answering:
        with contextlib.suppress(TimeoutError):
            while line := await asyncio.wait_for(reader.readline(), IDLE_S):
                answering.create_task(_answer(json.loads(line), run_batch, about))


async def _answer(asked: Mapping[str, Any], run_batch: RunOn, about: Mapping[str, Any]) -> None:
    answer: dict[str, Any]
    try:
        if "batch" in asked:
            answer = asdict(await run_batch(asked["batch"], asked["threads"], asked.get("size")))
        elif "quota" in asked:
            group = own_cpu_cgroup()
            answer = {"quota_milli": None if group is None else read_quota_milli(group)}
        else:
            answer = {"about": dict(about)}
    except SpongeError as error:
        answer = {"error": str(error)}
    print(json.dumps({"id": asked["id"], **answer}), flush=True)
