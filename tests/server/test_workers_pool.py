"""The worker pool with real processes and real torch: batches, bad items, crashes, hangs, scaling, orphans."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from lane_models import DIE, FAIL, HANG
from lane_pool import DEADLINE_S, MOODY, doubled, importable_models, item, until

from sponge_server.workers.interface import (
    Item,
    ItemError,
    LaneCrashed,
    LaneError,
    LaneResult,
    ModelError,
    ModelSpec,
    Tensor,
    TensorSpec,
)
from sponge_server.workers.pool import WorkerPool, extremes_first
from sponge_system.process_memory import private_bytes

pytestmark = [pytest.mark.torch, pytest.mark.asyncio(loop_scope="module")]

WIDE = ModelSpec("wide", "python://lane_models:wide", max_batch=4)


def batch_sizes(result: LaneResult) -> list[tuple[int, ...]]:
    """How many rows ran together, as each item saw it."""
    return [() if isinstance(o, ItemError) else struct.unpack(f"<{o[1].shape[0]}q", o[1].data) for o in result.outputs]


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    with importable_models():
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool([MOODY, WIDE])
    await pool.start(2)
    yield pool
    await pool.close()


async def test_the_info_names_the_outputs_of_the_model(pool: WorkerPool) -> None:
    assert pool.models[0].outputs == (TensorSpec("doubled", "FP32", (-1,)), TensorSpec("rows", "INT64", ()))
    assert pool.models[0].platform == "test"


async def test_items_of_several_rows_share_one_batch(pool: WorkerPool) -> None:
    result = await pool.lanes[0].run([item((5.0, 6.0)), item((7.0, 8.0), (9.0, 10.0))], threads=1)
    assert [doubled(o) for o in result.outputs] == [[10.0, 12.0], [14.0, 16.0, 18.0, 20.0]]
    assert batch_sizes(result) == [(3,), (3, 3)]
    assert result.batch_s > 0
    assert result.cpu_s > 0


async def test_threads_are_read_back_from_torch(pool: WorkerPool) -> None:
    assert [(await pool.lanes[0].run([item((5.0, 6.0))], threads)).threads for threads in (2, 1, 2)] == [2, 1, 2]


async def test_a_bad_item_fails_alone_and_the_others_get_their_own_outputs(pool: WorkerPool) -> None:
    result = await pool.lanes[0].run([item((5.0, 6.0)), item((FAIL, 0.0)), item((7.0, 8.0))], threads=1)
    assert doubled(result.outputs[0]) == [10.0, 12.0]
    assert doubled(result.outputs[2]) == [14.0, 16.0]
    assert str(result.outputs[1]) == "the model failed on this request: a row asked for it"


async def test_an_item_that_does_not_fit_never_reaches_the_model(pool: WorkerPool) -> None:
    wrong = Item((Tensor("y", "FP32", (1, 1), b"1234"),))
    result = await pool.lanes[0].run([wrong, item((5.0,))], threads=1)
    assert "needs exactly the inputs x" in str(result.outputs[0])
    assert doubled(result.outputs[1]) == [10.0]
    assert isinstance((await pool.lanes[0].run([wrong], threads=1)).outputs[0], ItemError)


async def test_rows_of_different_sizes_run_apart(pool: WorkerPool) -> None:
    result = await pool.lanes[0].run([item((5.0,)), item((6.0, 7.0)), item((8.0,))], threads=1)
    assert [doubled(o) for o in result.outputs] == [[10.0], [12.0, 14.0], [16.0]]
    assert batch_sizes(result) == [(2,), (1,), (2,)]


async def test_shared_memory_grows_with_the_inputs(pool: WorkerPool) -> None:
    many = tuple(float(i % 7 + 4) for i in range(300_000))
    result = await pool.lanes[0].run([item(many)], threads=1)
    assert doubled(result.outputs[0]) == [2 * v for v in many]


@pytest.mark.parametrize(("items", "threads"), [([], 1), ([item(*[(5.0,)] * 8), item((5.0,))], 1), ([item((5.0,))], 0)])
async def test_impossible_batches_are_refused(pool: WorkerPool, items: list[Item], threads: int) -> None:
    with pytest.raises(LaneError):
        await pool.lanes[0].run(items, threads)


async def test_batches_of_one_lane_wait_for_each_other(pool: WorkerPool) -> None:
    lane = pool.lanes[0]
    results = await asyncio.gather(*(lane.run([item((float(i + 4),))], threads=1) for i in range(10)))
    assert [doubled(r.outputs[0]) for r in results] == [[2.0 * (i + 4)] for i in range(10)]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_lane_fails_its_batch_and_is_replaced(pool: WorkerPool, sign: signal.Signals) -> None:
    changes: list[bool] = []
    first, second = pool.lanes
    pool.add_listener(lambda: changes.append(first.healthy))
    dead, other = first.pid, second.pid
    assert dead is not None
    running = asyncio.create_task(first.run([item((HANG,))], threads=1))
    await until(lambda: first.busy)
    os.kill(dead, sign)
    with pytest.raises(LaneCrashed, match="lane 0 died"):
        await running
    assert not first.busy
    with pytest.raises(LaneCrashed, match="being replaced"):
        await first.run([item((5.0,))], threads=1)
    await until(lambda: first.healthy)
    assert first.pid not in (None, dead)
    assert second.pid == other
    assert changes[:2] == [False, True]
    assert doubled((await first.run([item((5.0,))], threads=2)).outputs[0]) == [10.0]


async def test_a_model_that_crashes_takes_only_its_own_lane(pool: WorkerPool) -> None:
    first, second = pool.lanes
    with pytest.raises(LaneCrashed):
        await first.run([item((DIE,))], threads=1)
    assert doubled((await second.run([item((5.0,))], threads=1)).outputs[0]) == [10.0]
    await until(lambda: first.healthy)


async def test_a_hung_lane_is_killed_by_the_watchdog(pool: WorkerPool) -> None:
    lane = pool.lanes[1]
    with pytest.raises(LaneCrashed, match=r"hung for 0\.2 s"):
        await lane.run([item((HANG,))], threads=1, timeout_s=0.2)
    await until(lambda: lane.healthy)
    assert doubled((await lane.run([item((5.0,))], threads=1, timeout_s=DEADLINE_S)).outputs[0]) == [10.0]


async def test_cancelling_the_caller_does_not_stop_the_batch(pool: WorkerPool) -> None:
    lane = pool.lanes[0]
    running = asyncio.create_task(lane.run([item((HANG,))], threads=1, timeout_s=0.3))
    await until(lambda: lane.busy)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert lane.busy
    await until(lambda: not lane.busy and lane.healthy)  # the watchdog still holds


async def test_the_pool_scales_up_and_down(pool: WorkerPool) -> None:
    await pool.scale(3)
    assert [lane.id for lane in pool.lanes] == [0, 1, 2]
    pid = pool.lanes[2].pid
    assert pid is not None
    last = asyncio.create_task(pool.lanes[2].run([item((5.0,))], threads=1))
    await asyncio.sleep(0)
    await pool.scale(2)
    assert doubled((await last).outputs[0]) == [10.0]
    assert len(pool.lanes) == 2
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_one_lane_runs_every_model_each_with_its_own_shapes(pool: WorkerPool) -> None:
    lane = pool.lanes[0]
    assert [info.name for info in pool.models] == ["moody", "wide"]
    assert pool.models[1].outputs == (TensorSpec("output", "FP64", ()),)
    ones = Item((Tensor("v", "FP64", (4, 4096), struct.pack("<d", 1.0) * 4 * 4096),))
    for _ in range(2):
        total = (await lane.run([ones], threads=1, model=1)).outputs[0]
        assert not isinstance(total, ItemError)
        assert struct.unpack("<4d", total[0].data) == (4096.0,) * 4
        assert doubled((await lane.run([item((5.0, 6.0))], threads=2, model=0)).outputs[0]) == [10.0, 12.0]
    with pytest.raises(LaneError, match="wide takes 1 to 4"):
        await lane.run([ones, ones], threads=1, model=1)
    refused = (await lane.run([item((5.0,))], threads=1, model=1)).outputs[0]
    assert "needs exactly the inputs v" in str(refused)


async def test_warm_up_runs_every_size_on_every_lane(pool: WorkerPool) -> None:
    steps: list[tuple[int, int]] = []
    await pool.warm_up([1, 8], [1, 2], lambda done, total: steps.append((done, total)))
    assert steps == [(i, 8) for i in range(1, 9)]
    await pool.warm_up([4], [1], lambda done, total: steps.append((done, total)), model=1)
    assert steps[8:] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("batches", "threads", "order"),
    [
        ([1, 2, 3], [1], [(1, 1), (3, 1), (2, 1)]),
        ([1, 2, 3], [1, 2], [(1, 1), (3, 1), (1, 2), (3, 2), (2, 1), (2, 2)]),
        ([8, 8], [1], [(8, 1), (8, 1)]),
    ],
)
async def test_warm_up_begins_with_the_extremes(
    batches: list[int], threads: list[int], order: list[tuple[int, int]]
) -> None:
    assert extremes_first(batches, threads) == order


async def test_a_new_lane_runs_the_largest_batch_before_it_gets_requests() -> None:
    pool = WorkerPool([ModelSpec("m", "python://lane_models:remembering", max_batch=8)])
    try:
        await pool.start(1)
        await pool.warm_up([1, 5], [1])
        await pool.scale(2)
        output = (await pool.lanes[1].run([item((0.0,))], threads=1)).outputs[0]
        assert not isinstance(output, ItemError)
        assert struct.unpack("<f", output[0].data) == (5.0,)
    finally:
        await pool.close()


async def test_a_lane_keeps_the_memory_of_its_batches_up_to_its_allowance() -> None:
    pool = WorkerPool([ModelSpec("m", "python://lane_models:hungry", max_batch=1)])

    async def left_by(mib: float) -> float:
        """MiB that the lane has of its own once it is done with a batch that needed so many."""
        await pool.lanes[0].run([item((mib,))], threads=1)
        await pool.lanes[0].run([item((0.0,))], threads=1)  # only now is what the first gave back surely gone
        size = private_bytes(pool.pids[1])
        assert size is not None
        return size / (1 << 20)

    try:
        await pool.start(1)
        started = await left_by(0.0)
        assert await left_by(200.0) > started + 190, "without an allowance it keeps all for the next batch"
        lane = pool.pids[1]
        # Twice what a batch needs: a small block in the place of the former batch makes the allocator take another.
        pool.keep(lambda lanes: (450 if lanes == 1 else 150) << 20)
        assert await left_by(200.0) > started + 190
        await pool.scale(2)
        assert await left_by(200.0) < started + 50, "of two lanes each has less room"
        assert pool.pids[1] == lane
    finally:
        await pool.close()


async def test_a_warm_up_cut_short_leaves_idle_lanes(pool: WorkerPool) -> None:
    warming = asyncio.create_task(pool.warm_up([8] * 1000, [1]))
    await until(lambda: pool.lanes[0].busy)
    warming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await warming
    assert not any(lane.busy for lane in pool.lanes)


async def test_a_lost_fork_server_is_started_again_with_all_lanes(pool: WorkerPool) -> None:
    before = pool.pids
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: not any(lane.healthy for lane in pool.lanes))
    await until(lambda: all(lane.healthy for lane in pool.lanes))
    assert not set(before) & set(pool.pids)
    assert doubled((await pool.lanes[1].run([item((5.0,))], threads=1)).outputs[0]) == [10.0]


async def test_closing_ends_every_process_even_a_hung_one() -> None:
    pool = WorkerPool([MOODY])
    await pool.start(2)
    pids = pool.pids
    running = asyncio.create_task(pool.lanes[0].run([item((HANG,))], threads=1))
    await until(lambda: pool.lanes[0].busy)
    await pool.close()
    with pytest.raises(LaneCrashed):
        await running
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    await pool.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("python://lane_models:deadly", "kills its process on an example input .killed by SIGABRT"),
        ("python://lane_models:threaded", "started 1 threads .Thread-1.*start them in setup"),
        ("python://lane_models:bounded", "at most 4 rows: use --max-batch m=4"),
        ("python://lane_models:wrong_rows", "first dimension must be the batch"),
        ("python://lane_models:nothing", "no attribute 'nothing'; write python://"),
        ("file:///nowhere/m.pt2", "no model file '/nowhere/m.pt2'"),
    ],
)
async def test_a_model_that_cannot_serve_says_why(source: str, message: str) -> None:
    pool = WorkerPool([WIDE, ModelSpec("m", source, max_batch=8)])
    with pytest.raises(ModelError, match=f"model m: .*{message}"):
        await pool.start(1)
    assert pool.pids == []
    await pool.close()


ORPHANS = """
import asyncio
from sponge_server.workers.pool import WorkerPool, extremes_first
from lane_models import HANG
from lane_pool import MOODY, item
async def main():
    pool = WorkerPool([MOODY])
    await pool.start(2)
    running = asyncio.create_task(pool.lanes[0].run([item((HANG,))], 1))
    await asyncio.sleep(0)
    print(*pool.pids, flush=True)
    await running
asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_server() -> None:
    server = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert server.stdout is not None
    pids = [int(pid) for pid in server.stdout.readline().split()]
    assert len(pids) == 3
    server.kill()
    server.wait()
    server.stdout.close()
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_what_a_model_prints_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sponge.lanes")
    pool = WorkerPool([ModelSpec("talking", "python://lane_models:talking", max_batch=1)])
    await pool.start(1)
    await pool.lanes[0].run([item((5.0,))], threads=1)
    await pool.close()
    said = [record.fields["text"] for record in caplog.records if record.msg == "lane.output"]  # type: ignore[attr-defined]
    assert said[0] == "loading"
    assert said[-1] == "running"
