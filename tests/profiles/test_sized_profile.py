"""A profile of rows that differ in size: measured, written, read, and used."""

from __future__ import annotations

import pytest

from sponge_core.latency import LatencyModel, SizeCurve
from sponge_profiles.profile import Profile
from sponge_profiles.timing import BatchTime, measure_sizes, quick_profile

BERT = LatencyModel(1.0, 0.0, 0.44e-3, 8.8e-3, sizes=SizeCurve((0.0, 0.212e-3, 0.267e-6), (0.0, 0.0, 0.0)))
SIZES = [8, 21, 57, 150, 400]


async def of_size(batch: int, threads: int, size: int) -> BatchTime:
    seconds = BERT.at(size).latency(batch, threads)
    return BatchTime(seconds, seconds * (1.0 if threads == 1 else threads))


async def of_reference(batch: int, threads: int) -> BatchTime:
    return await of_size(batch, threads, 57)


async def measured() -> Profile:
    profile = await quick_profile(of_reference, [1, 2, 4, 8], [1, 2], 2.0, 60.0, model="bert")
    return await measure_sizes(of_size, profile, SIZES, 57, "padded", 60.0)


async def test_sizes_between_the_measured_ones_are_predicted() -> None:
    profile = await measured()
    model = profile.latency_model()
    for size in (8.0, 16.0, 64.0, 256.0, 400.0):
        for batch, threads in ((1, 1), (1, 2), (4, 1), (8, 2)):
            real = BERT.at(size).latency(batch, threads)
            assert model.at(size).latency(batch, threads) == pytest.approx(real, rel=0.1)
    assert profile.sizes is not None
    assert profile.sizes.unseen_p80_percent is not None
    assert profile.sizes.unseen_p80_percent < 10
    assert {point.size for point in profile.sized_points} == {8.0, 21.0, 57.0, 150.0, 400.0}


async def test_a_machine_that_is_slow_for_a_while_bends_no_curve() -> None:
    """For a third of the time it is at a third of its speed. The gain of threads and the larger sizes stay right."""
    ran = 0

    async def at_times_slow(batch: int, threads: int, size: int) -> BatchTime:
        nonlocal ran
        ran += 1
        time = await of_size(batch, threads, size)
        slow = 3.0 if ran > 210 - 70 else 1.0
        return BatchTime(slow * time.wall_s, slow * time.cpu_s)

    profile = await quick_profile(of_reference, [1, 2, 4, 8], [1, 2], 2.0, 60.0, model="bert")
    model = (await measure_sizes(at_times_slow, profile, SIZES, 57, "padded", 60.0)).latency_model()
    for size in (8.0, 57.0, 256.0, 400.0):
        for batch, threads in ((1, 1), (1, 2), (4, 1)):
            real = BERT.at(size).latency(batch, threads)
            assert model.at(size).latency(batch, threads) == pytest.approx(real, rel=0.1)


async def test_every_size_is_measured_once_whatever_the_budget() -> None:
    profile = await quick_profile(of_reference, [1, 2, 4, 8], [1, 2], 2.0, 60.0, model="bert")
    found = await measure_sizes(of_size, profile, SIZES, 57, "padded", 0.0)
    assert {(point.size, point.batch, point.threads) for point in found.sized_points} == {
        (float(size), 1, 1) for size in SIZES
    }


@pytest.mark.parametrize("throttled", [False, True])
async def test_one_thread_is_timed_by_the_clock_that_throttling_leaves_alone(throttled: bool) -> None:
    async def stalls(batch: int, threads: int, size: int) -> BatchTime:
        seconds = BERT.at(size).latency(batch, threads)
        return BatchTime(4 * seconds, seconds) if throttled else BatchTime(seconds, seconds / 2)

    profile = await quick_profile(of_reference, [1, 4], [1], 1.0, 60.0, model="bert")
    model = (await measure_sizes(stalls, profile, SIZES, 57, "padded", 60.0, throttled)).latency_model()
    assert model.at(256.0).latency(1, 1) == pytest.approx(BERT.at(256.0).latency(1, 1), rel=0.1)


async def test_the_file_keeps_the_sizes() -> None:
    profile = await measured()
    again = Profile.from_yaml(profile.to_yaml(), "again")
    assert again == profile
    assert again.latency_model() == profile.latency_model()


async def test_at_the_reference_it_is_an_ordinary_profile() -> None:
    profile = await measured()
    plain = profile.model_copy(update={"sizes": None, "sized_points": ()}).latency_model()
    for batch, threads in ((1, 1), (8, 1), (4, 2)):
        own = profile.latency_model().at(57.0).latency(batch, threads)
        assert own == pytest.approx(plain.latency(batch, threads), rel=1e-6)
