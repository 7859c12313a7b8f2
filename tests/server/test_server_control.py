"""When the server projects, what it publishes, and when a reader gets it; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from engine_world import MODEL, handles, item
from virtual_time import FakePool, VirtualLoop, run_virtual

from sponge_core.control_api import ApplyRequest, ReleaseRequest
from sponge_core.deadlines import Due
from sponge_server.control.control_loop import ControlLoop
from sponge_server.control.news import News
from sponge_server.control.operator_watch import OperatorWatch
from sponge_server.control.projector import EARLY_AT_ONCE, Projector
from sponge_server.control.reconfigure import Reconfigurer
from sponge_server.control.state_publisher import StatePublisher
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.engine.engine import Engine
from sponge_server.engine.jobs import Job
from sponge_server.engine.scheduler import Scheduler
from sponge_server.lane_watch import LaneWatch
from sponge_server.lifecycle import Lifecycle
from sponge_server.memory_watch import MemoryWatch
from sponge_server.observability.metrics import Metrics
from sponge_server.observability.request_stats import RequestStats
from sponge_server.startup.memory_plan import Fitted
from sponge_server.uploads import Upload, Uploads

SIZES = (500, 1000, 1500, 2000)


class Site:
    """Engine, projector, state publisher and control loop on one virtual loop."""

    def __init__(self, loop: VirtualLoop, tmp_path: Path, cores: float) -> None:
        metrics, clock = Metrics(), loop.time
        self.pool = FakePool(2, MODEL)
        self.uploads = Uploads()
        self.news = News()
        self.scheduler = Scheduler([MODEL], cores, 4, 2.0, clock())
        self.projector = Projector(
            self.scheduler,
            self.uploads,
            self.pool,
            self.news,
            metrics,
            sizes_milli=SIZES,
            max_batch=4,
            resize_s=0.03,
            clock=clock,
        )
        self.models = handles(self.pool.models)
        stats = RequestStats(metrics, ["fake"])
        self.engine = Engine(self.pool, self.scheduler, self.models, [stats, self.projector], clock=clock)
        self.quota = CpuQuota(cores, tmp_path)
        self.quota.add_listener(self.engine.set_cores)
        self.quota.add_listener(lambda _: self.projector.resized())
        self.lifecycle = Lifecycle(["fake"], "ready")
        self.told_ready: list[tuple[float, bool]] = []
        self.operator = OperatorWatch(clock)
        self.memory = MemoryWatch(Fitted(None, None, 0, 2, (4,)), self.pool, metrics)
        self.publisher = StatePublisher(
            lifecycle=self.lifecycle,
            engine=self.engine,
            stats=stats,
            pool=self.pool,
            projector=self.projector,
            news=self.news,
            operator=self.operator,
            quota=self.quota,
            uploads=self.uploads,
            memory=self.memory,
            clock=clock,
        )
        watch = LaneWatch(self.pool, self.lifecycle, lambda ready: self.told_ready.append((round(clock(), 1), ready)))
        self.reconfigurer = Reconfigurer(
            publisher=self.publisher,
            operator=self.operator,
            engine=self.engine,
            quota=self.quota,
            projector=self.projector,
            pool=self.pool,
            metrics=metrics,
            memory=self.memory,
            max_batch=4,
            max_lanes=8,
            clock=clock,
        )
        control_loop = ControlLoop(
            self.quota,
            self.engine,
            self.projector,
            self.reconfigurer,
            metrics,
            watch,
            self.memory,
            clock=clock,
            cpu_clock=lambda: 0.0,
        )
        self.loop = loop
        self.tasks = [loop.create_task(control_loop.run())]

    def operate(self) -> None:
        """Reads the state again and again, as an operator does."""

        async def read_on() -> None:
            version = None
            while True:
                version = (await self.publisher.read(version, 1.0)).version

        self.tasks.append(self.loop.create_task(read_on()))

    def submit(self, slo_s: float) -> Job:
        job = self.engine.submit(self.models[0], [item()], Due(self.loop.time(), slo_s, "default", "absent", 9))
        job.future.add_done_callback(lambda future: future.exception())
        return job


def site(scenario: Callable[[Site], object], tmp_path: Path, cores: float) -> None:
    async def run(loop: VirtualLoop) -> None:
        place = Site(loop, tmp_path, cores)
        try:
            await scenario(place)  # type: ignore[misc]
        finally:
            for task in place.tasks:
                task.cancel()

    run_virtual(run)


def test_an_idle_server_offers_its_smallest_size_without_projecting(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        place.operate()
        await asyncio.sleep(1.0)
        assert [(p.cores_milli, p.batch_cap, p.misses) for p in place.projector.frontier] == [(500, 4, 0)]
        assert not place.projector.urgent

    site(scenario, tmp_path, 2.0)


def test_a_steady_load_gets_a_frontier_with_a_size_that_misses_nothing(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        place.operate()
        for _ in range(100):
            place.submit(1.0)
            await asyncio.sleep(0.05)
        sizes = {p.cores_milli: p.misses for p in place.projector.frontier}
        assert min(sizes.values()) == 0
        assert sizes.get(500, 1) > 0  # twenty requests a second are one core's worth
        assert place.publisher.snapshot().arrival_rate_rps == pytest.approx(20, rel=0.2)
        assert place.publisher.snapshot().load_cores == pytest.approx(1.0, rel=0.3)
        assert place.publisher.snapshot().remaining_slo_s == [pytest.approx(1.0)] * 6

    site(scenario, tmp_path, 2.0)


def test_what_is_refused_for_the_load_counts_and_what_is_hopeless_does_not(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        def refuse(left_s: float) -> None:
            due = Due(place.loop.time(), left_s, "default", "absent", 9)
            place.engine.count_refused(place.models[0], due, "shed")

        place.operate()
        for _ in range(100):
            place.submit(1.0)
            refuse(1.0)
            await asyncio.sleep(0.05)
        seen = place.publisher.snapshot()
        assert [seen.arrival_rate_rps, seen.refused_rps] == pytest.approx([20, 20], rel=0.2)
        assert seen.load_cores == pytest.approx(2.0, rel=0.3)
        for _ in range(120):
            refuse(0.001)
            await asyncio.sleep(0.05)
        assert place.publisher.snapshot().refused_rps == 0

    site(scenario, tmp_path, 2.0)


@pytest.mark.parametrize("cores", [0.05, 0.5, 0.625])
def test_a_request_that_only_a_larger_size_can_meet_is_news_at_once(tmp_path: Path, cores: float) -> None:
    """Also where the size in force is none of the plan's sizes: a parked server, or one between two steps."""

    async def scenario(place: Site) -> None:
        place.engine.set_driven(True)
        await asyncio.sleep(5.0)
        seen = (await place.publisher.read(None, 0.0)).version
        reader = asyncio.ensure_future(place.publisher.read(seen, 30.0))
        await asyncio.sleep(0.123)
        began = place.loop.time()
        job = place.submit(0.08)
        snapshot = await reader
        assert place.loop.time() - began < 0.03
        assert snapshot.urgent
        assert snapshot.queue_length == 1
        place.quota.apply(2.0)
        await job.future

    site(scenario, tmp_path, cores)


def test_the_frontier_after_a_resize_is_of_the_new_size(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        place.engine.set_driven(True)
        seen = (await place.publisher.read(None, 0.0)).version
        for _ in range(12):
            place.submit(0.5)
        before = await place.publisher.read(seen, 1.0)
        assert before.urgent
        place.quota.apply(2.0)
        after = await place.publisher.read(before.version - 1, 0.0)
        assert after.cores_milli == 2000
        assert not after.urgent
        assert {point.cores_milli: point.misses for point in after.frontier}[2000] == 0

    site(scenario, tmp_path, 0.5)


def test_an_upload_in_flight_is_the_first_of_the_forecast_and_counts_once(tmp_path: Path) -> None:
    """Half a second of requests is under way at any moment; counted twice, half as much again would be planned."""

    async def scenario(place: Site) -> None:
        now = place.loop.time
        for _ in range(60):
            upload = Upload(now(), now() + 1.0, 1000)
            place.uploads.add(upload)
            place.loop.call_later(0.5, place.uploads.discard, upload)
            place.loop.call_later(0.5, place.submit, 0.5)
            await asyncio.sleep(0.1)
        assert len(place.uploads) in (4, 5)
        coming = place.projector.coming(now())
        assert len(coming) == pytest.approx(10, abs=2)  # ten a second, half a standard deviation of margin
        assert coming == sorted(coming)

    site(scenario, tmp_path, 2.0)


def test_the_first_bytes_of_a_body_wake_a_parked_server(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        place.engine.set_driven(True)
        await asyncio.sleep(5.0)
        seen = place.publisher.snapshot().version
        reader = asyncio.ensure_future(place.publisher.read(seen, 30.0))
        await asyncio.sleep(0.04)
        now = place.loop.time()
        place.uploads.add(Upload(now, now + 0.4, total=1000))
        place.engine.requests_pending()
        snapshot = await reader
        assert place.loop.time() == pytest.approx(now, abs=0.005)
        assert (snapshot.urgent, snapshot.uploads_in_flight) == (True, 1)

    site(scenario, tmp_path, 0.05)


def test_a_reader_without_news_gets_the_state_when_its_wait_is_over(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        first = await place.publisher.read(None, 10.0)
        assert place.loop.time() == 0.0
        second = await place.publisher.read(first.version, 0.7)
        assert place.loop.time() == pytest.approx(0.7)
        assert second.version > first.version
        third = await place.publisher.read(10**9, 0.3)  # a version from before a restart
        assert place.loop.time() == pytest.approx(1.0)
        assert third.version > second.version

    site(scenario, tmp_path, 2.0)


def test_news_that_came_between_two_reads_is_not_missed(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        seen = place.publisher.snapshot().version
        place.news.publish(news=True)
        await place.publisher.read(seen, 60.0)
        assert place.loop.time() == 0.0

    site(scenario, tmp_path, 2.0)


def test_projections_keep_to_their_share_of_a_small_cpu(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        projected: list[float] = []
        original = place.projector.project

        def counted(now: float) -> None:
            projected.append(now)
            original(now)

        place.projector.project = counted  # type: ignore[method-assign]
        place.operate()
        for _ in range(200):
            place.submit(0.9)
            await asyncio.sleep(0.02)
        gaps = [after - before for before, after in pairwise(projected)]
        assert min(gaps[5:]) >= 0.0095
        # Each earns 40 ms. A few may come early, and the regular one waits for nobody.
        for first, last in zip(projected, projected[20:], strict=False):
            assert last - first >= (20 - EARLY_AT_ONCE - 1) * 0.04 - 0.005
        assert len(projected) > 10

    site(scenario, tmp_path, 0.5)


def test_without_an_operator_nothing_is_projected_until_one_asks(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        for _ in range(100):
            place.submit(1.0)
            await asyncio.sleep(0.05)
        assert place.projector.frontier == []
        first = await place.publisher.read(None, 0.0)
        assert {p.cores_milli: p.misses for p in first.frontier}[500] > 0

    site(scenario, tmp_path, 2.0)


def test_a_smaller_memory_limit_keeps_batches_small(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        def applied(version: int, cap: int) -> ApplyRequest:
            return ApplyRequest(version=version, cores_milli=1000, batch_cap=cap)

        assert (await place.reconfigurer.apply(applied(1, 4))).batch_cap == 4
        place.memory.most_batch = 2
        place.reconfigurer.look()
        assert place.scheduler.batch_cap == 2
        assert (await place.reconfigurer.apply(applied(2, 3))).batch_cap == 2
        place.memory.most_batch = 4
        place.reconfigurer.look()
        assert place.scheduler.batch_cap == 3
        place.memory.most_batch = 1
        place.reconfigurer.release(ReleaseRequest(version=3))
        assert place.scheduler.batch_cap == 1

    site(scenario, tmp_path, 1.0)
