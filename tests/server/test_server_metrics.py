"""The exposition of a real server, read by a real parser: every metric with its labels, and consistent numbers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from server_process import ServerProcess

pytestmark = pytest.mark.torch

PROMISED = {
    "sponge_requests": {"model", "slo_class", "outcome"},
    "sponge_request_latency_seconds": {"model", "slo_class"},
    "sponge_queue_seconds": {"model"},
    "sponge_slack_at_dispatch_seconds": {"model"},
    "sponge_batch_size": {"model"},
    "sponge_batch_threads": {"model"},
    "sponge_batch_seconds": {"model"},
    "sponge_latency_prediction_ratio": {"model"},
    "sponge_dispatch": {"reason"},
    "sponge_queue_length": None,
    "sponge_cpu_quota_cores": set(),
    "sponge_thread_budget": set(),
    "sponge_threads_running": set(),
    "sponge_lanes": set(),
    "sponge_lanes_healthy": set(),
    "sponge_lanes_running": set(),
    "sponge_batch_cap": None,
    "sponge_cpu_throttled_seconds": set(),
    "sponge_reconfigure_seconds": set(),
    "sponge_event_loop_lag_seconds": set(),
    "sponge_uploads_in_flight": set(),
    "sponge_projection_seconds": set(),
    "sponge_http_connections": {"port"},
    "sponge_request_bytes": set(),
    "process_resident_memory_bytes": set(),
    "process_cpu_seconds": set(),
}
"""Name without the suffix of its kind, and labels; None where they depend on the number of models."""


@pytest.fixture(scope="module")
def exposition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """After three requests in time and one that could not be."""
    server = ServerProcess(
        tmp_path_factory.mktemp("m"), "--model", "m=python://commanded_model:factory", "--slo-ms", "20000"
    )
    for _ in range(3):
        assert server.command(5).status == 200
    assert server.command(0, x_sponge_slo_ms="0.01").status in (503, 504)
    yield server.ask("/metrics", token=None).body.decode()
    assert server.stop() == 0


@pytest.fixture(scope="module")
def families(exposition: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition)}


@pytest.mark.parametrize("name", PROMISED)
def test_every_documented_metric_exists_with_its_labels(families: dict[str, Metric], name: str) -> None:
    family = families[name]
    assert family.documentation
    labels = PROMISED[name]
    if labels is not None:
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {frozenset(labels)}


def test_each_request_is_counted_in_one_outcome(families: dict[str, Metric]) -> None:
    counted = {sample.labels["outcome"]: sample.value for sample in families["sponge_requests"].samples}
    assert (counted["in_time"], counted["shed"] + counted["expired"]) == (3, 1)
    assert counted.keys() == {"in_time", "late", "shed", "expired", "cancelled", "error"}
    latencies = [s.value for s in families["sponge_request_latency_seconds"].samples if s.name.endswith("_count")]
    assert latencies == [3]


def test_no_memory_is_held_once_every_request_is_answered(families: dict[str, Metric]) -> None:
    assert families["sponge_request_bytes"].samples[0].value == 0
    assert families["sponge_queue_length"].samples[0].value == 0


def test_promtool_accepts_the_exposition(exposition: str, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
