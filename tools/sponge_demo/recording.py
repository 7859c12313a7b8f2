"""A run as series to draw and figures to compare; pure.

Samples come from the server's control port, records from the load generator; both carry epoch seconds. The page draws
the same series live and in the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sponge_client.outcomes import RequestRecord
from sponge_core.control_api import StateSnapshot
from sponge_demo.steps import corners, mean_of
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["Figures", "Run", "Sample", "Series", "figures_of", "mean_milli", "sample_of", "series_of"]

ROLLING_S = 10
MBIT = 125_000.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server, at `at` epoch seconds."""

    at: float
    cores_milli: int
    batch: int  # largest of the batches that run
    batch_cap: int
    queued: int
    uploading: int


def sample_of(at: float, state: StateSnapshot) -> Sample:
    """The part of a snapshot that the charts need; the cores are the kernel's quota where there is one."""
    return Sample(
        at=at,
        cores_milli=state.cpu_quota_milli if state.cpu_quota_milli is not None else state.cores_milli,
        batch=max((lane.batch for lane in state.lanes), default=0),
        batch_cap=state.batch_cap,
        queued=state.queue_length,
        uploading=state.uploads_in_flight,
    )


@dataclass(slots=True)
class Run:
    """One pass of the schedule.

    Attributes:
        name: for the table and the legends.
        static_milli: the fixed size; None when Sponge chooses.
        started_at: epoch seconds at which the schedule began; None before that is known.
    """

    name: str
    static_milli: int | None
    samples: list[Sample]
    records: list[RequestRecord]
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points to draw: the corners of the size's step line, and for the others one value a second, None for none.

    Attributes:
        uplink_mbit: bandwidth of each client.
        left_after_upload_ms: the least of the SLO that any request had left when its body was in.
        left_at_answer_ms: the least of the SLO that any answered request had left; below 0 is late.
        refused: requests without an answer: shed, expired, cancelled or failed.
        attained: percent in time of all requests that have ended; `attained_10s` of those in the last 10 s.
    """

    cores_t: list[float]
    cores: list[float]
    batch: list[int | None]
    batch_cap: list[int | None]
    queued: list[int | None]
    uploading: list[int | None]
    uplink_mbit: list[float]
    left_after_upload_ms: list[float | None]
    left_at_answer_ms: list[float | None]
    refused: list[int]
    attained: list[float | None]
    attained_10s: list[float | None]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Figures:
    """A run in numbers. `mean_cores` is over the time in which requests were sent; p99 is of answered requests."""

    mean_cores: float
    in_time_percent: float
    p99_ms: float | None
    sent: int
    in_time: int
    late: int
    refused: int
    resizes: int
    restarts: int
    sender_lag_p99_ms: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def mean_milli(samples: Sequence[Sample], start: float, end: float) -> float | None:
    """Mean size between two epoch times, each sample in force until the next one; None without samples in there."""
    line = _line(samples, start, end)
    return mean_of(line) if line else None


def series_of(run: Run, duration_s: float, uplink: BandwidthTrace, now: float) -> Series:
    """The series up to `now` (epoch seconds), at most the duration of the run.

    Args:
        uplink: as replayed, from the run's start on.
    """
    start = run.started_at if run.started_at is not None else now
    elapsed_s = min(max(0.0, now - start), duration_s)
    seconds = int(elapsed_s)
    line = _line(run.samples, start, start + elapsed_s)
    by_second = _samples_by_second(run.samples, start, seconds)
    sent = _records_by_second([(record.at_s, record) for record in run.records], seconds)
    ended = _records_by_second([(record.at_s + record.latency_s, record) for record in run.records], seconds)
    good = np.cumsum([sum(record.outcome == "in_time" for record in second) for second in ended])
    total = np.cumsum([len(second) for second in ended])
    return Series(
        cores_t=[round(at, 2) for at, _ in line],
        cores=[milli / 1000 for _, milli in line],
        batch=[max((sample.batch for sample in second), default=None) for second in by_second],
        batch_cap=[second[-1].batch_cap if second else None for second in by_second],
        queued=[max((sample.queued for sample in second), default=None) for second in by_second],
        uploading=[max((sample.uploading for sample in second), default=None) for second in by_second],
        uplink_mbit=[round(uplink.bandwidth_at(second + 0.5) / MBIT, 2) for second in range(seconds)],
        left_after_upload_ms=[_least_ms([record.slo_s - record.upload_s for record in second]) for second in sent],
        left_at_answer_ms=[
            _least_ms([record.slo_s - record.latency_s for record in second if record.status == 200]) for second in sent
        ],
        refused=[sum(record.status != 200 for record in second) for second in sent],
        attained=[_percent(good[i], total[i]) for i in range(seconds)],
        attained_10s=[
            _percent(
                good[i] - (good[i - ROLLING_S] if i >= ROLLING_S else 0),
                total[i] - (total[i - ROLLING_S] if i >= ROLLING_S else 0),
            )
            for i in range(seconds)
        ],
    )


def figures_of(run: Run, duration_s: float, resizes: int, restarts: int) -> Figures:
    """The figures of a run that has ended, and had samples."""
    assert run.started_at is not None
    milli = mean_milli(run.samples, run.started_at, run.started_at + duration_s)
    assert milli is not None
    counts = {outcome: sum(record.outcome == outcome for record in run.records) for outcome in ("in_time", "late")}
    latencies = [record.latency_s for record in run.records if record.status == 200]
    sent = len(run.records)
    return Figures(
        mean_cores=round(milli / 1000, 3),
        in_time_percent=round(100 * counts["in_time"] / sent, 3) if sent else 100.0,
        p99_ms=_percentile_ms(latencies),
        sent=sent,
        in_time=counts["in_time"],
        late=counts["late"],
        refused=sent - counts["in_time"] - counts["late"],
        resizes=resizes,
        restarts=restarts,
        sender_lag_p99_ms=_percentile_ms([record.lag_s for record in run.records]),
    )


def _line(samples: Sequence[Sample], start: float, end: float) -> list[tuple[float, float]]:
    """The sizes in millicores between two epoch times, as the corners of a step line."""
    return corners([(sample.at - start, sample.cores_milli) for sample in samples], end - start)


def _samples_by_second(samples: Sequence[Sample], start: float, seconds: int) -> list[list[Sample]]:
    buckets: list[list[Sample]] = [[] for _ in range(seconds)]
    for sample in samples:
        second = int(sample.at - start) if sample.at >= start else -1
        if 0 <= second < seconds:
            buckets[second].append(sample)
    return buckets


def _records_by_second(records: Sequence[tuple[float, RequestRecord]], seconds: int) -> list[list[RequestRecord]]:
    buckets: list[list[RequestRecord]] = [[] for _ in range(seconds)]
    for at_s, record in records:
        if int(at_s) < seconds:
            buckets[int(at_s)].append(record)
    return buckets


def _least_ms(values_s: Sequence[float]) -> float | None:
    return round(min(values_s) * 1000, 1) if values_s else None


def _percent(part: float, whole: float) -> float | None:
    return round(100 * float(part) / float(whole), 2) if whole else None


def _percentile_ms(values_s: Sequence[float]) -> float | None:
    return round(float(np.percentile(values_s, 99)) * 1000, 1) if values_s else None
