"""The schedule of requests: an eightfold rate, bursts, and seeds that differ."""

from __future__ import annotations

import pytest

from sponge_demo.arrivals import Bursts, Waves, wave_arrivals

WAVES = Waves(low_rps=5.0)
NO_BURSTS = Bursts(requests=0)


def test_the_rate_rises_and_falls_eightfold_twice_in_a_hundred_seconds() -> None:
    rates = [WAVES.rate_at(at / 10) for at in range(1000)]
    assert min(rates) == WAVES.low_rps == WAVES.rate_at(0.0) == pytest.approx(WAVES.rate_at(50.0))
    assert max(rates) == pytest.approx(WAVES.peak_rps) == pytest.approx(40.0)
    assert [at / 10 for at, rate in enumerate(rates) if rate == max(rates)] == pytest.approx([25.0, 75.0])
    rising = rates[:250]
    assert rising == sorted(rising)
    # Crests are short: every fixed size is too large for most of the time.
    assert sum(rate > WAVES.peak_rps / 2 for rate in rates) < 0.3 * len(rates)


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_arrivals_follow_the_rate(seed: int) -> None:
    arrivals = wave_arrivals(WAVES, NO_BURSTS, 1000.0, seed)
    assert list(arrivals) == sorted(arrivals)
    assert 0.0 <= arrivals[0] < arrivals[-1] < 1000.0
    mean = sum(WAVES.rate_at(at / 10) for at in range(10_000)) / 10_000
    assert len(arrivals) / 1000.0 == pytest.approx(mean, rel=0.1)
    crests = sum(22.5 <= at % 50 < 27.5 for at in arrivals) / 100.0
    troughs = sum(at % 50 < 2.5 or at % 50 >= 47.5 for at in arrivals) / 100.0
    assert crests / troughs == pytest.approx(8.0, rel=0.25)


def test_a_burst_comes_once_in_every_ten_seconds() -> None:
    steady = set(wave_arrivals(WAVES, NO_BURSTS, 100.0, seed=3))
    bursts = sorted(set(wave_arrivals(WAVES, Bursts(), 100.0, seed=3)) - steady)
    assert len(bursts) == 40
    for number in range(10):
        burst = bursts[4 * number : 4 * number + 4]
        assert burst[-1] - burst[0] <= 0.1
        assert 10 * number <= burst[0] <= 10 * (number + 1)


def test_a_seed_repeats_itself_and_no_other() -> None:
    schedules = [wave_arrivals(WAVES, Bursts(), 100.0, seed) for seed in (1, 1, 2, 3)]
    assert schedules[0] == schedules[1]
    assert len({schedule[:5] for schedule in schedules}) == 3
