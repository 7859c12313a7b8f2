"""From samples and records to series and figures."""

from __future__ import annotations

import pytest
from demo_story import DURATION_S, START, UPLINK, fixed_run, record, sponge_run

from sponge_demo.recording import Run, Sample, figures_of, mean_milli, series_of


def sample(at_s: float, milli: int) -> Sample:
    return Sample(START + at_s, milli, 0, 8, 0, 0)


@pytest.mark.parametrize(
    ("samples", "mean"),
    [
        ([], None),
        ([sample(0, 500)], 500),
        ([sample(-3, 500), sample(5, 1000)], 750),
        ([sample(-3, 100), sample(-1, 500), sample(9, 1000), sample(11, 9999)], 550),
        ([sample(5, 500)], 500),  # nothing is known of the time before
    ],
)
def test_the_mean_size_is_weighted_by_time(samples: list[Sample], mean: float | None) -> None:
    assert mean_milli(samples, START, START + 10) == (None if mean is None else pytest.approx(mean))


def test_figures() -> None:
    figures = figures_of(sponge_run(), DURATION_S, resizes=4, restarts=1)
    assert figures.mean_cores == pytest.approx((10 * 1.0 + 10 * 0.25) / 20, abs=0.01)
    assert (figures.sent, figures.in_time, figures.late, figures.refused) == (20, 18, 1, 1)
    assert figures.in_time_percent == 90.0
    assert figures.p99_ms == pytest.approx(428, abs=1)
    assert (figures.resizes, figures.restarts, figures.sender_lag_p99_ms) == (4, 1, 0.5)


def test_series_of_a_whole_run() -> None:
    series = series_of(sponge_run(), DURATION_S, UPLINK, now=START + 100)
    assert list(zip(series.cores_t, series.cores, strict=True)) == [(0, 0.25), (5, 1), (15, 0.25), (20, 0.25)]
    assert series.uplink_mbit == [8.0] * 10 + [16.0] * 10
    assert series.left_after_upload_ms == pytest.approx([280.0] * 10 + [340.0] * 10)
    assert series.left_at_answer_ms[7] == pytest.approx(-100)
    assert series.left_at_answer_ms[11] is None
    assert series.refused == [int(second == 11) for second in range(20)]
    assert series.attained[6] == 100.0
    assert series.attained[-1] == 90.0
    assert series.attained_10s[16] == 80.0
    assert series.attained_10s[18] == 90.0  # the late one of second 7 is over ten seconds ago
    assert (series.batch[0], series.batch_cap[0], series.queued[0], series.uploading[0]) == (2, 8, 1, 3)


def test_series_of_a_run_that_goes_on_end_with_the_present_second() -> None:
    series = series_of(sponge_run(until_s=4.0), DURATION_S, UPLINK, now=START + 4.5)
    lengths = {len(values) for name, values in series.as_dict().items() if not name.startswith("cores")}
    assert lengths == {4}
    assert series.cores_t[-1] == 4.5


def test_series_of_a_run_of_which_nothing_is_known() -> None:
    series = series_of(Run("Sponge", None, [sample(0, 500)], []), DURATION_S, UPLINK, now=START + 5)
    assert series.attained == []
    assert series.cores_t == [0.0, 0.0]


def test_a_size_between_two_samples_is_a_corner_of_its_own() -> None:
    run = fixed_run(500, good=20)
    run.samples.insert(3, Sample(START + 2.2, 750, 1, 8, 0, 0))
    series = series_of(run, DURATION_S, UPLINK, now=START + 100)
    assert list(zip(series.cores_t, series.cores, strict=True)) == [(0, 0.5), (2.2, 0.75), (3, 0.5), (20, 0.5)]


def test_a_request_that_ends_after_the_run_is_in_the_figures() -> None:
    run = fixed_run(500, good=20)
    run.records.append(record(20, 19.9, 5.0))
    assert figures_of(run, DURATION_S, 0, 0).sent == 21
