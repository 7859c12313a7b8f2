"""What a server tells the fronts before it, and when; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import yaml
from engine_world import World
from virtual_time import VirtualLoop, run_virtual

from sponge_core.routing.pod_load import MOST_LISTED, PodLoad
from sponge_server.control.load_feed import GAP_S, MOST_READERS, SILENCE_S, LoadFeed
from sponge_server.engine.engine import Engine
from sponge_server.fronts import MOST_FRONTS, FrontNumbers
from sponge_server.lifecycle import Lifecycle
from sponge_server.protocol.problems import ProblemError
from sponge_server.uploads import Upload, Uploads


class Fed(World):
    """An engine that a load feed observes."""

    def __init__(self, loop: VirtualLoop, cores: float = 1.0) -> None:
        super().__init__(loop, lanes=1, cores=cores, max_cores=2.0)
        self.uploads = Uploads()
        self.lifecycle = Lifecycle(["fake"], "ready")
        self.fronts = FrontNumbers()
        self.feed = LoadFeed(
            scheduler=self.scheduler,
            models=self.models,
            uploads=self.uploads,
            pool=self.pool,
            lifecycle=self.lifecycle,
            fronts=self.fronts,
            clock=loop.time,
        )
        self.engine = Engine(self.pool, self.scheduler, self.models, [self.feed], clock=loop.time)
        self.heard: list[tuple[float, PodLoad]] = []

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[None]:
        """Context in which a front reads; what it hears is in `heard`, with the time."""

        async def read() -> None:
            async with aclosing(self.feed.lines()) as lines:
                async for line in lines:
                    self.heard.append((self.loop.time(), PodLoad.model_validate_json(line)))

        task = self.loop.create_task(read())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))


def fed(scenario: Callable[[Fed], Awaitable[None]]) -> None:
    async def run(loop: VirtualLoop) -> None:
        await scenario(Fed(loop))

    run_virtual(run)


def test_a_report_holds_what_the_dispatch_rule_needs() -> None:
    async def scenario(world: Fed) -> None:
        for slo_s in (3.0, 1.0, 2.0):
            world.submit(slo_s=slo_s).future.add_done_callback(lambda future: future.exception())
        await asyncio.sleep(0.01)  # the first decision takes all three, or leaves some
        world.uploads.add(Upload(world.loop.time(), world.loop.time() + 5.0, None))
        world.fronts.arrived({b"x-sponge-front": b"abc 7"})
        load = world.feed.read()
        assert load.now_s == world.loop.time()
        assert (load.accepting, load.cores_milli, load.most_milli) == (True, 1000, 2000)
        assert load.slack_s == sorted(load.slack_s)
        assert load.waiting + sum(1 for _ in load.running) >= 1
        assert load.running[0].threads == 1
        assert load.running[0].slack_s == pytest.approx(0.99, abs=1e-3)
        assert load.waiting == len(world.scheduler.queue) + 1
        assert (load.slack_s[-1], load.had_s[-1]) == pytest.approx((5.0, 5.0))
        assert load.slo_s == {"": 1.0}
        assert load.received == {"abc": 7}
        model = load.model()
        assert model is not None
        assert model.latency(2, 1) == pytest.approx(world.scheduler.models[0].latency(2, 1))

    fed(scenario)


def test_a_long_queue_is_listed_to_a_bound() -> None:
    async def scenario(world: Fed) -> None:
        world.submit(rows=MOST_LISTED + 30).future.add_done_callback(lambda future: future.exception())
        load = world.feed.read()
        assert len(load.slack_s) == MOST_LISTED
        assert load.more == 30

    fed(scenario)


def test_a_change_is_told_at_once_and_a_crowd_of_changes_together() -> None:
    async def scenario(world: Fed) -> None:
        async with world.reader():
            await asyncio.sleep(0.5)
            assert len(world.heard) == 1
            for _ in range(20):
                world.submit(slo_s=9.0).future.add_done_callback(lambda future: future.exception())
                await asyncio.sleep(0.001)
            times = [at for at, _ in world.heard[1:]]
            assert times[0] == pytest.approx(0.5, abs=1e-3)
            assert len(times) <= 2
            await asyncio.sleep(GAP_S)
            waiting_and_running = world.heard[-1][1]
            assert waiting_and_running.waiting == len(world.scheduler.queue)

    fed(scenario)


def test_a_reader_hears_of_a_quiet_server() -> None:
    async def scenario(world: Fed) -> None:
        async with world.reader():
            await asyncio.sleep(3.5 * SILENCE_S)
        assert [round(at / SILENCE_S) for at, _ in world.heard] == [0, 1, 2, 3]

    fed(scenario)


def test_without_a_reader_nothing_is_written() -> None:
    async def scenario(world: Fed) -> None:
        written = 0

        def count() -> PodLoad:
            nonlocal written
            written += 1
            return PodLoad.model_validate(LoadFeed.read(world.feed))

        world.feed.read = count  # type: ignore[method-assign]
        world.submit(slo_s=9.0).future.add_done_callback(lambda future: future.exception())
        await asyncio.sleep(1.0)
        assert written == 0

    fed(scenario)


def test_a_stopping_server_says_so_and_ends_the_report() -> None:
    async def scenario(world: Fed) -> None:
        async with world.reader():
            world.lifecycle.enter("leaving")
            world.feed.changed()
            await asyncio.sleep(2 * GAP_S)
            assert not world.heard[-1][1].accepting
            world.lifecycle.enter("draining")
            world.feed.changed()
            await asyncio.sleep(2 * GAP_S)
            told = len(world.heard)
            await asyncio.sleep(3 * SILENCE_S)
            assert len(world.heard) == told

    fed(scenario)


def test_readers_are_bounded() -> None:
    async def scenario(world: Fed) -> None:
        open_lines = [world.feed.lines() for _ in range(MOST_READERS)]
        for lines in open_lines:
            await anext(lines)
        with pytest.raises(ProblemError, match="more may not") as refused:
            await anext(world.feed.lines())
        assert refused.value.status == 503
        await open_lines[0].aclose()
        await anext(world.feed.lines())

    fed(scenario)


@pytest.mark.parametrize(
    ("headers", "known"),
    [
        ({b"x-sponge-front": b"abc 7"}, {"abc": 7}),
        ({b"x-sponge-front": b"abc 7", b"x-envoy-attempt-count": b"1"}, {"abc": 7}),
        ({b"x-sponge-front": b"abc 7", b"x-envoy-attempt-count": b"2"}, {}),
        ({}, {}),
        ({b"x-sponge-front": b"abc"}, {}),
        ({b"x-sponge-front": b"abc -7"}, {}),
        ({b"x-sponge-front": b"a" * 65 + b" 7"}, {}),
        ({b"x-sponge-front": b"abc 7\xff"}, {}),
    ],
)
def test_the_number_of_a_request_comes_with_its_front(headers: dict[bytes, bytes], known: dict[str, int]) -> None:
    fronts = FrontNumbers()
    fronts.arrived(headers)
    assert fronts.read() == known


def test_numbers_only_grow_and_fronts_are_bounded() -> None:
    fronts = FrontNumbers()
    for number in (3, 1, 2):
        fronts.arrived({b"x-sponge-front": b"abc %d" % number})
    assert fronts.read() == {"abc": 3}
    for front in range(MOST_FRONTS):
        fronts.arrived({b"x-sponge-front": b"f%d 1" % front})
    assert len(fronts.read()) == MOST_FRONTS
    assert "abc" not in fronts.read()


def test_all_fronts_of_a_service_may_read_also_while_they_are_replaced() -> None:
    schema = yaml.safe_load((Path(__file__).parents[2] / "crds" / "spongeservice.yaml").read_text())
    (version,) = schema["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    most = spec["front"]["properties"]["replicas"]["maximum"]
    # One more than all, and those on their way out.
    assert 1.5 * most <= MOST_READERS
    assert 1.5 * most <= MOST_FRONTS
