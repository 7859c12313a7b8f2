"""A small story to draw in tests: two runs of twenty seconds with every kind of outcome."""

from __future__ import annotations

from sponge_client.outcomes import RequestRecord, outcome_of
from sponge_demo.document import Story
from sponge_demo.recording import Run, Sample, figures_of
from sponge_demo.scenario import Scenario
from sponge_demo.workload import Workload
from sponge_workload.bandwidth import BandwidthTrace

START = 1_000_000.0
DURATION_S = 20.0
SCENARIO = Scenario(DURATION_S, slo_s=0.4, payload_bytes=120_000, max_milli=1500, step_milli=125)
WORKLOAD = Workload(tuple(second + 0.25 for second in range(20)), (1.0,) * 20, start_milli=500, fixed_milli=1000)
UPLINK = BandwidthTrace("test link", (1e6, 2e6), (10.0, 10.0))


def record(index: int, at_s: float, latency_s: float, status: int = 200) -> RequestRecord:
    return RequestRecord(
        index=index,
        at_s=at_s,
        lag_s=0.0005,
        payload_bytes=120_000,
        upload_s=UPLINK.upload_s(at_s, 120_000),
        slo_s=SCENARIO.slo_s,
        outcome=outcome_of(status, latency_s, SCENARIO.slo_s),
        status=status,
        latency_s=latency_s,
    )


def sponge_run(until_s: float = DURATION_S) -> Run:
    """One request a second; 0.25 cores, 1 core from second 5 to 15; a second refused, another one late."""
    samples = [
        Sample(START + at / 5, 1000 if 25 <= at < 75 else 250, at % 3, 8, at % 2, at % 4)
        for at in range(-5, int(until_s * 5))
    ]
    records = [
        record(second, second + 0.25, 0.5 if second == 7 else 0.1, 503 if second == 11 else 200)
        for second in range(int(until_s))
    ]
    return Run("Sponge", None, samples, records, started_at=START)


def fixed_run(milli: int, good: int) -> Run:
    """Twenty requests of which `good` are in time."""
    samples = [Sample(START + at, milli, 1, 8, 0, 0) for at in range(21)]
    records = [record(i, i + 0.5, 0.1 if i < good else 0.9) for i in range(20)]
    return Run(f"fixed {milli / 1000:g}", milli, samples, records, started_at=START)


def story(*fixed: Run, ended: bool = True) -> Story:
    told = Story(SCENARIO, UPLINK, 3.0, "a test", WORKLOAD)
    told.runs = [sponge_run(), *fixed]
    if ended:
        told.figures = [figures_of(run, DURATION_S, resizes=2, restarts=0) for run in told.runs]
    told.details = [("command", "sponge demo </script>")]
    return told
