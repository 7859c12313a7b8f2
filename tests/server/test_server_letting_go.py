"""Where nobody applies a size, the quota rules: at the start, after a release, and when the operator is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_server_control import Site, site

from sponge_core.control_api import ApplyRequest, ReleaseRequest
from sponge_server.control.reconfigure import StaleVersionError

FALLBACK_S = 60.0


def quota(directory: Path, milli: int) -> None:
    (directory / "cgroup.procs").touch()
    (directory / "cpu.max").write_text(f"{milli * 100} 100000")


def apply(version: int, milli: int, fallback_after_s: float | None = FALLBACK_S) -> ApplyRequest:
    return ApplyRequest(version=version, cores_milli=milli, batch_cap=2, fallback_after_s=fallback_after_s)


def test_a_quota_that_anyone_sets_is_used_until_somebody_applies_a_size(tmp_path: Path) -> None:
    quota(tmp_path, 500)

    async def scenario(place: Site) -> None:
        for milli in (1750, 125, 2000):
            quota(tmp_path, milli)
            await asyncio.sleep(0.15)
            seen = place.publisher.snapshot()
            assert (seen.cores_milli, seen.cpu_quota_milli, seen.applied_milli) == (milli, milli, None)
        await place.reconfigurer.apply(apply(1, 250))
        seen = place.publisher.snapshot()
        assert (seen.cores_milli, seen.applied_milli, seen.batch_cap) == (250, 250, 2)

    site(scenario, tmp_path, 2.0)


def test_a_release_gives_the_quota_back_and_an_older_message_does_not_undo_it(tmp_path: Path) -> None:
    quota(tmp_path, 1500)

    async def scenario(place: Site) -> None:
        await place.reconfigurer.apply(apply(3, 250))
        with pytest.raises(StaleVersionError, match="send a greater one"):
            place.reconfigurer.release(ReleaseRequest(version=3))
        acknowledged = place.reconfigurer.release(ReleaseRequest(version=5))
        assert (acknowledged.version, acknowledged.cores_milli) == (5, 1500)
        with pytest.raises(StaleVersionError):
            await place.reconfigurer.apply(apply(4, 250))
        seen = place.publisher.snapshot()
        assert (seen.cores_milli, seen.applied_milli, seen.batch_cap, seen.applied_version) == (1500, None, 4, 5)

    site(scenario, tmp_path, 2.0)


def test_a_message_that_waits_for_its_batches_is_overtaken_by_a_release(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        place.submit(0.04)  # in time only on two threads
        await asyncio.sleep(0.001)
        assert place.scheduler.threads_running > 1
        waiting = asyncio.ensure_future(place.reconfigurer.apply(apply(1, 1000)))
        await asyncio.sleep(0)
        place.reconfigurer.release(ReleaseRequest(version=2))
        with pytest.raises(StaleVersionError, match="overtaken"):
            await waiting
        assert place.publisher.snapshot().cores_milli == 2000

    site(scenario, tmp_path, 2.0)


def test_admission_counts_on_the_largest_size_only_while_somebody_can_give_it(tmp_path: Path) -> None:
    quota(tmp_path, 250)

    async def scenario(place: Site) -> None:
        alone_s = place.scheduler.least_s()
        await place.reconfigurer.apply(apply(1, 250))
        driven_s = place.scheduler.least_s()
        assert driven_s < alone_s
        place.reconfigurer.release(ReleaseRequest(version=2))
        assert place.scheduler.least_s() == pytest.approx(alone_s)
        quota(tmp_path, 2000)
        await asyncio.sleep(0.15)
        assert place.scheduler.least_s() == pytest.approx(driven_s)

    site(scenario, tmp_path, 2.0)


@pytest.mark.parametrize("fallback_after_s", [0.5, FALLBACK_S])
def test_a_silent_operator_is_given_up_and_the_quota_rules(tmp_path: Path, fallback_after_s: float) -> None:
    quota(tmp_path, 1500)

    async def scenario(place: Site) -> None:
        await place.reconfigurer.apply(apply(1, 250, fallback_after_s))
        version = place.publisher.snapshot().version
        # Two long polls without news; the second ends when the operator's machine is lost.
        for wait_s in (2 * fallback_after_s, fallback_after_s):
            version = (await place.publisher.read(version, wait_s)).version
        assert place.publisher.snapshot().applied_milli == 250
        await asyncio.sleep(fallback_after_s - 0.2)
        assert (place.publisher.snapshot().cores_milli, place.operator.gone_s) == (250, 0.0)
        await asyncio.sleep(0.5)
        seen = place.publisher.snapshot()
        assert (seen.cores_milli, seen.applied_milli, seen.applied_version) == (1500, None, 2)
        assert place.operator.gone_s == pytest.approx(fallback_after_s + 0.3, abs=0.01)
        with pytest.raises(StaleVersionError):
            await place.reconfigurer.apply(apply(2, 250))
        await place.reconfigurer.apply(apply(3, 500, fallback_after_s))
        assert (place.publisher.snapshot().cores_milli, place.operator.gone_s) == (500, 0.0)

    site(scenario, tmp_path, 2.0)


def test_nobody_is_missed_where_nobody_is_expected(tmp_path: Path) -> None:
    quota(tmp_path, 1500)

    async def scenario(place: Site) -> None:
        await asyncio.sleep(1000.0)
        await place.publisher.read(0, 0.0)  # a person looks
        await place.reconfigurer.apply(apply(1, 500, None))  # and applies a size for good
        await asyncio.sleep(1000.0)
        assert (place.publisher.snapshot().cores_milli, place.operator.gone_s) == (500, 0.0)
        await place.reconfigurer.apply(apply(2, 250))
        polling = asyncio.ensure_future(place.publisher.read(place.publisher.snapshot().version, 30.0))
        await asyncio.sleep(1.0)
        place.reconfigurer.release(ReleaseRequest(version=3))
        await polling
        await asyncio.sleep(1000.0)
        assert place.operator.gone_s == 0.0

    site(scenario, tmp_path, 2.0)


# --- news ------------------------------------------------------------------------------------------------------------


def test_the_first_request_after_an_idle_time_is_news_at_once_even_if_it_is_not_urgent(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        await place.publisher.read(None, 0.0)
        await asyncio.sleep(20.0)
        reader = asyncio.ensure_future(place.publisher.read(place.publisher.snapshot().version, 30.0))
        await asyncio.sleep(10.033)
        began = place.loop.time()
        job = place.submit(60.0)
        snapshot = await reader
        assert place.loop.time() - began < 0.005
        assert not snapshot.urgent
        await job.future

    site(scenario, tmp_path, 2.0)


def follow(place: Site) -> list[float]:
    """Reads the state as an operator of a resting server does; the times of the answers."""
    told: list[float] = []

    async def read_on() -> None:
        version = None
        while True:
            version = (await place.publisher.read(version, 30.0)).version
            told.append(place.loop.time())

    place.tasks.append(place.loop.create_task(read_on()))
    return told


async def load(place: Site, rate: float, seconds: float) -> None:
    for _ in range(round(rate * seconds)):
        place.submit(1.0)
        await asyncio.sleep(1 / rate)


def test_it_is_news_at_once_that_a_smaller_size_suffices(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        await place.reconfigurer.apply(apply(1, 2000))
        told = follow(place)
        await load(place, 60.0, 5.0)  # more than two cores can do
        ended, before = place.loop.time(), len(told)
        await asyncio.sleep(25.0)
        after = [at - ended for at in told[before:]]
        assert after[0] < 3.0
        assert len(after) <= 3

    site(scenario, tmp_path, 2.0)


def test_a_steady_load_makes_little_news(tmp_path: Path) -> None:
    async def scenario(place: Site) -> None:
        await place.reconfigurer.apply(apply(1, 2000))
        told = follow(place)
        await load(place, 20.0, 5.0)
        before = len(told)
        await load(place, 20.0, 25.0)
        assert len(told) - before <= 2

    site(scenario, tmp_path, 2.0)


@pytest.mark.parametrize("cores", [0.05, 0.25])
def test_a_burst_is_looked_at_several_times_at_once_also_by_a_small_server(tmp_path: Path, cores: float) -> None:
    """Its first requests alone may need no more cores; the next look must not wait for a small server's turn."""

    async def scenario(place: Site) -> None:
        await place.reconfigurer.apply(apply(1, round(cores * 1000)))
        version = (await place.publisher.read(None, 0.0)).version
        await asyncio.sleep(3.0)
        began, urgent = place.loop.time(), False
        for _ in range(8):
            place.submit(2.0)
            await asyncio.sleep(0.002)
        while not urgent:
            seen = await place.publisher.read(version, 1.0)
            version, urgent = seen.version, seen.urgent
        assert place.loop.time() - began < 0.03

    site(scenario, tmp_path, cores)


def test_whoever_waits_for_a_quota_is_answered_once_it_is_there(tmp_path: Path) -> None:
    quota(tmp_path, 500)

    async def scenario(place: Site) -> None:
        waiting = asyncio.ensure_future(place.publisher.read_at_quota(1500, 10.0))
        await asyncio.sleep(0.5)
        quota(tmp_path, 1500)
        began = place.loop.time()
        assert (await waiting).cpu_quota_milli == 1500
        assert place.loop.time() - began < 0.01
        assert (await place.publisher.read_at_quota(250, 0.3)).cpu_quota_milli == 1500
        assert place.loop.time() - began < 0.32

    site(scenario, tmp_path, 2.0)
