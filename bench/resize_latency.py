"""Measures the time from the resize patch to the changed CPU quota of the running container, on a real kubelet.

Starts the local cluster if needed and one pod on it, resizes the pod up and down with the operator's own call, and
watches the quota in the kernel's cgroup file and the pod's status.

    python -m bench.resize_latency --resizes 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from bench.options import at_least_one, at_least_zero
from bench.results import Percentiles, new_table
from sponge_cluster import BUSYBOX_IMAGE, Cluster, ConsoleProgress, up
from sponge_cluster.containers import container_cgroup
from sponge_core.errors import SpongeError
from sponge_core.quantities import parse_cpu_milli
from sponge_operator.clients.kube import Kube
from sponge_system.cgroup import read_quota_milli

NAMESPACE = "default"
POD = "bench-resize"
SIZES_MILLI = (250, 500, 750, 1000)
PATIENCE_S = 60.0


def manifest() -> dict[str, Any]:
    """An idle pod with Guaranteed QoS whose CPU may be resized in place."""
    resources = {"cpu": f"{SIZES_MILLI[-1]}m", "memory": "32Mi"}
    container = {
        "name": "main",
        "image": BUSYBOX_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sleep", "3600"],
        "resources": {"requests": resources, "limits": resources},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE}, "spec": spec}


def kubectl(cluster: Cluster, *arguments: str, text: str | None = None, timeout_s: float = 90) -> str:
    """Runs kubectl against the cluster; returns what it prints. Raises SpongeError with its message when it fails."""
    command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments]
    done = subprocess.run(command, input=text, check=False, text=True, capture_output=True, timeout=timeout_s)
    if done.returncode != 0:
        raise SpongeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


async def wait_for(done: Callable[[], bool], pause_s: float) -> float:
    """Waits until `done` and returns the seconds. Raises TimeoutError."""
    began = time.perf_counter()
    while not done():
        if time.perf_counter() - began > PATIENCE_S:
            raise TimeoutError(f"not done after {PATIENCE_S:.0f} s")
        await asyncio.sleep(pause_s)
    return time.perf_counter() - began


async def measure(kube: Kube, resizes: int, pause_s: float) -> dict[str, list[float]]:
    """Durations in seconds: of the patch call, until the quota changed, until the status says so."""
    pod = await kube.get("Pod", NAMESPACE, POD)
    if pod is None:
        raise RuntimeError(f"pod {POD} has disappeared")
    status = pod["status"]["containerStatuses"][0]
    cgroup = container_cgroup(pod["metadata"]["uid"], status["containerID"])
    found: dict[str, list[float]] = {"patch call": [], "quota changed": [], "status says so": []}
    for number in track(range(resizes), description="resizing", console=Console(stderr=True), transient=True):
        target = SIZES_MILLI[number % len(SIZES_MILLI)]
        began = time.perf_counter()
        patched = asyncio.create_task(kube.resize(pod, "main", target))
        patched.add_done_callback(lambda _: found["patch call"].append(time.perf_counter() - began))  # noqa: B023 - awaited below
        await wait_for(lambda: read_quota_milli(cgroup) == target, 0.0005)  # noqa: B023 - awaited here
        found["quota changed"].append(time.perf_counter() - began)
        await patched
        while True:
            now = await kube.get("Pod", NAMESPACE, POD) or {}
            container = now["status"]["containerStatuses"][0]
            if parse_cpu_milli(container["resources"]["limits"]["cpu"]) == target:
                break
            if time.perf_counter() - began > PATIENCE_S:
                raise TimeoutError(f"the status does not say {target}m after {PATIENCE_S:.0f} s")
            await asyncio.sleep(0.002)
        found["status says so"].append(time.perf_counter() - began)
        if (container["containerID"], container["restartCount"]) != (status["containerID"], 0):
            raise RuntimeError("the container was restarted, so this was not an in-place resize")
        await asyncio.sleep(pause_s)
    return found


async def run(resizes: int, pause_s: float) -> dict[str, list[float]]:
    """Creates the pod, measures, deletes the pod."""
    cluster = await asyncio.to_thread(up, progress=ConsoleProgress())
    await asyncio.to_thread(kubectl, cluster, "apply", "-f", "-", text=json.dumps(manifest()))
    try:
        await asyncio.to_thread(kubectl, cluster, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=60s")
        async with Kube(cluster.kubeconfig) as kube:
            return await measure(kube, resizes, pause_s)
    finally:
        await asyncio.to_thread(kubectl, cluster, "delete", "pod", POD, "--ignore-not-found")


def main() -> None:
    """Measures and prints a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resizes", type=at_least_one, default=60)
    parser.add_argument("--pause-s", type=at_least_zero, default=0.2, help="between two resizes (default 0.2)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=Path, help="also write every quota delay, in seconds, one a line")
    options = parser.parse_args()
    try:
        found = asyncio.run(run(options.resizes, options.pause_s))
    except SpongeError as error:
        sys.exit(f"resize_latency: {error}")
    if options.samples:
        options.samples.write_text("".join(f"{seconds:.6f}\n" for seconds in found["quota changed"]))
    rows = {name: Percentiles.of(seconds) for name, seconds in found.items()}
    if options.json:
        print(json.dumps({"resizes": options.resizes} | {name: asdict(row) for name, row in rows.items()}))
        return
    title = f"{options.resizes} resizes in place, 0 restarts; ms after the patch was sent"
    table = new_table(title, ["until"], ["p50", "p90", "p99", "max"])
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in asdict(row).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
