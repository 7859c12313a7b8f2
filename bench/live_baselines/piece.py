"""One live run: a system, a schedule, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.fidelity import batch_times
from bench.live_baselines.addons import API_GROUP, vertical_autoscaler
from bench.live_baselines.pod_log import PodLog
from bench.live_baselines.rules import Gateway, RuleDriver
from bench.live_baselines.schedules import Load, Target, requests_of
from bench.live_baselines.servers import NAME, NAMESPACE, plain_server, sponge_service
from bench.live_baselines.systems import System
from bench.real_service import Kubectl
from sponge_client.client import SpongeClient
from sponge_client.load import LoadRun
from sponge_client.outcomes import RequestRecord
from sponge_client.payloads import image_bodies
from sponge_client.wire import precise_loop
from sponge_cluster import Cluster
from sponge_cluster.chart import local_values
from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube
from sponge_operator.resources.manifests import CONTROL_PORT, HTTP_PORT
from sponge_simulator.metrics import METRICS_SERVER_S
from sponge_simulator.scaling.interface import Service, Size

__all__ = ["Place", "run_piece", "scraped_s"]

READY_WITHIN_S = 240
GONE_WITHIN_S = 120
WARM_UP = 12
"""Requests before the run, one after the other."""

PAUSE_S = 4.0
"""From then to the start: Sponge's pod shrinks meanwhile."""

FORGET_S = 35.0
"""The same where metrics count, which come every 15 s: they would still show how the pods started."""

SAMPLES = 80
"""Of batch times are kept for each size."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs take place. `folder` gets the logs of programs."""

    cluster: Cluster
    kubectl: Kubectl
    folder: Path


def run_piece(
    place: Place, target: Target, system: System, load: Load, service: Service, start: Size
) -> dict[str, Any]:
    """Starts the servers, sends the schedule, removes everything; returns the result as plain values.

    Args:
        service: as the system's policy knows it.
        start: the pods to begin with; for Sponge's own it is not used.

    Raises:
        SpongeError: something did not start, or ended in the middle.
    """
    kubectl = place.kubectl
    _remove(kubectl)
    kubectl("create", "namespace", NAMESPACE)
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=30s")
    try:
        _start(place, target, system, start)
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            return runner.run(_Run(place, target, system, load, service, start).run())
    finally:
        _remove(kubectl)


def _remove(kubectl: Kubectl) -> None:
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={GONE_WITHIN_S}s")


def _start(place: Place, target: Target, system: System, start: Size) -> None:
    kubectl = place.kubectl
    if system.is_sponge:
        manifest = sponge_service(target)
        if system.follows_load:
            pods = system.fewest_pods, target.most_replicas
            manifest = sponge_service(target, target.least_milli, target.replica_milli, pods, system.startup_milli)
        kubectl("apply", "-f", "-", document=manifest)
        kubectl("wait", "--for=condition=Ready", f"sps/{NAME}", "-n", NAMESPACE, f"--timeout={READY_WITHIN_S}s")
        return
    server = local_values(place.cluster.python_pod())["server"]
    milli = round(1000 * start.cores)
    for each in plain_server(target, milli, start.replicas, server, resized=system.resized):
        kubectl("apply", "-f", "-", document=each)
    kubectl("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, f"--timeout={READY_WITHIN_S}s")


class _Run:
    """The part of a run on the event loop."""

    def __init__(self, place: Place, target: Target, system: System, load: Load, service: Service, start: Size) -> None:
        self._place = place
        self._target = target
        self._system = system
        self._load = load
        self._service = service
        self._begun = start
        self._pods = PodLog()

    async def run(self) -> dict[str, Any]:
        load = self._load
        url = await asyncio.to_thread(self._address)
        async with self._watching():
            run, gateway = await self._prepare(url)
            await asyncio.sleep(FORGET_S if self._system.needs_metrics else PAUSE_S)
            async with self._autoscaler(), Kube(self._place.cluster.kubeconfig) as kube:
                cpu = await asyncio.to_thread(self._cpu_seconds)
                metrics = await asyncio.to_thread(self._metrics) if self._system.needs_metrics else None
                began, wall = time.monotonic(), time.time()
                await self._send(run, gateway, kube)
                ended = began + load.schedule.duration_s
            used = _used(cpu, await asyncio.to_thread(self._cpu_seconds))
            took_s = time.monotonic() - began
            logs = await asyncio.to_thread(self._logs)
        account = self._pods.account(began, ended)
        return {
            **_outcomes(run.records),
            **{name: value for name, value in asdict(account).items() if name != "steps"},
            "steps": [list(step) for step in account.steps],
            "batches_s": _sample(batch_times(logs)),
            "resizes_s": self._resize_times(took_s) if self._system.is_sponge else [],
            "overhead_cores": round(used / took_s, 4),
            "scraped_s": None if metrics is None else scraped_s(metrics, wall),
        }

    @asynccontextmanager
    async def _autoscaler(self) -> AsyncIterator[None]:
        """The Kubernetes autoscaler of this system, if it has one; it starts with the first request."""
        place, system = self._place, self._system
        with contextlib.ExitStack() as stack:
            if system.vpa is not None:
                vpa = vertical_autoscaler(place.cluster, place.kubectl, system.vpa, place.folder)
                await asyncio.to_thread(stack.enter_context, vpa)
            if system.autoscaler is not None:
                await asyncio.to_thread(place.kubectl, "apply", "-f", "-", document=system.autoscaler(self._target))
            yield

    def _address(self) -> str:
        found = json.loads(self._place.kubectl("get", "service", NAME, "-n", NAMESPACE, "-o", "json"))
        return f"http://{authority(found['spec']['clusterIP'], HTTP_PORT)}"

    async def _prepare(self, url: str) -> tuple[LoadRun, Gateway]:
        """Warms the pods up, and prepares the sender and what counts its requests."""
        target, load = self._target, self._load
        async with SpongeClient(url) as client:
            bodies = image_bodies(await client.metadata(target.model), load.payload_bytes)
        for number in range(WARM_UP):
            async with SpongeClient(url) as client:  # on a connection of its own, so that every pod gets some
                await client.infer_body(target.model, bodies[number % len(bodies)], 10.0)
        gateway = Gateway(requests_of(load, 0.0))
        run: LoadRun

        def recorded(_record: RequestRecord) -> None:
            gateway.answered(run.elapsed_s)

        run = LoadRun(url, target.model, load.schedule, bodies, load.uplink, target.slo_s, recorded, reuse=False)
        return run, gateway

    async def _send(self, run: LoadRun, gateway: Gateway, kube: Kube) -> None:
        sending = asyncio.create_task(run.run())
        tasks = [sending]
        if self._system.by_rule:
            sizes = [round(1000 * cores) for cores in self._service.sizes]
            driver = RuleDriver(
                kube,
                self._pods,
                gateway,
                self._system.policy(self._service),
                self._begun,
                sizes,
                self._target.most_milli,
                round(1000 * self._service.replica_cores),
            )
            tasks.append(asyncio.create_task(driver.run(lambda: run.elapsed_s)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        """Keeps the log of pods, in the background."""
        cluster = self._place.cluster
        process = await asyncio.create_subprocess_exec(
            *(str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "get", "--raw"),
            f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1",
            stdout=asyncio.subprocess.PIPE,
            limit=2**22,
        )

        async def read() -> None:
            assert process.stdout is not None
            async for line in process.stdout:
                self._pods.see(time.monotonic(), json.loads(line))

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            process.terminate()
            await process.wait()
            await reading

    def _cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of each serving pod's HTTP process so far, by address."""
        found = {}
        for pod in self._pods.serving:
            address = pod["status"].get("podIP")
            if address is None:
                continue
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{authority(address, CONTROL_PORT)}/metrics", timeout=5) as answer,
            ):
                text = answer.read().decode()
                if match := re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE):
                    found[address] = float(match[1])
        return found

    def _metrics(self) -> dict[str, Any]:
        path = f"/apis/{API_GROUP}/v1beta1/namespaces/{NAMESPACE}/pods"
        found: dict[str, Any] = json.loads(self._place.kubectl("get", "--raw", path))
        return found

    def _logs(self) -> str:
        names = [pod["metadata"]["name"] for pod in self._pods.serving]
        return "\n".join(self._place.kubectl("logs", "-n", NAMESPACE, name) for name in names)

    def _resize_times(self, since_s: float) -> list[float]:
        log = "\n".join(self._place.kubectl.operator_log(since_s))
        return [float(took) for took in re.findall(r"resize\.actuated \S+ \S+ took=(\S+)", log)]


def scraped_s(metrics: Mapping[str, Any], began: float) -> float | None:
    """When metrics-server reads the pods for the first time from `began` on, in seconds after it; None: it knows none.

    Args:
        metrics: its list of pods; their timestamps are whole seconds, so half a second is added.
        began: epoch seconds.
    """
    times = [datetime.fromisoformat(pod["timestamp"]).timestamp() for pod in metrics["items"]]
    return round((max(times) + 0.5 - began) % METRICS_SERVER_S, 2) if times else None


def _used(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """CPU seconds of a pod between two readings, the mean of those that are in both; 0 without one."""
    both = [after[address] - before[address] for address in before.keys() & after.keys()]
    return fmean(both) if both else 0.0


def _sample(batches: Mapping[int, Sequence[float]]) -> dict[str, list[float]]:
    draw = random.Random(1)
    return {
        str(rows): [round(s, 5) for s in (draw.sample(times, SAMPLES) if len(times) > SAMPLES else times)]
        for rows, times in batches.items()
    }


def _outcomes(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """The shares in time, and how often each outcome came."""
    if not records:
        raise SpongeError("no request was sent; give a longer schedule")
    counts: dict[str, int] = {}
    for record in records:
        counts[record.outcome] = counts.get(record.outcome, 0) + 1
    classes = {f"{slo * 1000:.0f} ms": slo for slo in sorted({record.slo_s for record in records})}
    latencies = sorted(record.latency_s for record in records if record.outcome in ("in_time", "late"))
    return {
        "sent": len(records),
        "outcomes": counts,
        "in_time": round(counts.get("in_time", 0) / len(records), 4),
        "by_class": {
            name: round(fmean(record.outcome == "in_time" for record in records if record.slo_s == slo), 4)
            for name, slo in classes.items()
        },
        "missed_at_s": [round(record.at_s, 1) for record in records if record.outcome != "in_time"],
        "p99_ms": round(1000 * latencies[int(0.99 * (len(latencies) - 1))], 1) if latencies else None,
        "lag_p99_ms": round(1000 * sorted(record.lag_s for record in records)[int(0.99 * (len(records) - 1))], 2),
    }
