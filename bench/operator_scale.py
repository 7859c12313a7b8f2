"""Hundreds of services on a real API server: what the operator costs, and whether a burst or an edit waits longer.

The operator runs as a process of its own. The pods of the services are reported by nodes without containers, which
answer for their servers (`bench.hollow_nodes`); API server, scheduler and controllers are those of the local cluster.
First a few services are made, and bursts of one are timed; then the rest, and the same again. Needs root.

    python -m bench.operator_scale                      # 300 services
    python -m bench.operator_scale --services 1000
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubernetes.aio import client, config
from rich.console import Console
from rich.progress import track

from bench.hollow_nodes import PODS_EACH, SELECTOR, HollowNodes, HollowPod
from bench.options import arguments, at_least_one
from bench.real_service import Kubectl
from bench.results import BLUE, SPONGE, Percentiles, new_table, save
from sponge_cluster import ConsoleProgress, status, up
from sponge_cluster.chart import CHART
from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP, KIND, PLURAL, VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMESPACE = "scale"
FEW = 10
RESTS_MILLI, BURST_MILLI, EDIT_MILLI = 250, 1000, 500
TIMED = 20
SETTLE_S, REST_S, CHANGE_S, CHANGES_PER_S = 30.0, 30.0, 20.0, 10.0
BUSY, NEEDS_PER_S = 50, 10.0
"""Services whose need rises and falls, and how often one does: half of the budget of resizes, or they would wait."""

READY_WITHIN_S = 900.0
RESIZED_WITHIN_S = 10.0
RESTS_WITHIN_S = 60.0
GONE_LOOKS = 400
REQUESTS = re.compile(r"^apiserver_request_total\{.* (\S+)$", re.MULTILINE)
WHERE = (GROUP, VERSION, NAMESPACE, PLURAL)
MERGE = "application/merge-patch+json"
CONTROL_PLANE = ("kube-apiserver", "etcd")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Outcome:
    """What was seen. Durations in seconds, CPU in cores, memory in MiB, calls to the API server per second.

    Attributes:
        calls_alone: calls of everybody else, seen with the operator stopped.
        burst_few: from an urgent state of a server until its node sees the resize, with few services.
        burst_many: the same with all.
        edit: from the edit of a service until its node sees the resize.
        resizes_per_s: that were seen while the need of some services rose and fell.
        resize_cores, resize_calls: meanwhile.
        rest_control_cores, resize_control_cores: of API server and etcd, at rest and meanwhile, whoever asks them.
    """

    services: int = 0
    ready_s: float = 0.0
    rest_cores: float = 0.0
    rest_mib: float = 0.0
    rest_calls: float = 0.0
    calls_alone: float = 0.0
    change_cores: float = 0.0
    change_mib: float = 0.0
    resizes_per_s: float = 0.0
    resize_cores: float = 0.0
    resize_calls: float = 0.0
    rest_control_cores: float = 0.0
    resize_control_cores: float = 0.0
    burst_few: list[float] = field(default_factory=list)
    burst_many: list[float] = field(default_factory=list)
    edit: list[float] = field(default_factory=list)


class Operator:
    """The operator as a process of its own."""

    def __init__(self, kubectl: Kubectl, log: Path) -> None:
        command = [sys.executable, "-m", "sponge_cli.main", "operator", "run", "--namespace", NAMESPACE]
        self.log = log
        self._process = subprocess.Popen(
            [*command, "--metrics-port", "0", "--health-port", "0"],
            env={**os.environ, "KUBECONFIG": kubectl.config},
            stderr=log.open("w"),
        )

    def cpu_s(self) -> float:
        return cpu_s(self._process.pid)

    def mib(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def check(self) -> None:
        """Raises SpongeError if it has ended."""
        if self._process.poll() is not None:
            raise SpongeError(f"the operator has ended: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def control_plane_cpu_s() -> float:
    """CPU seconds of API server and etcd so far, where they are processes of this machine; else 0."""
    return sum(cpu_s(process.pid) for process in status().processes if process.name in CONTROL_PLANE)


def manifest(number: int) -> dict[str, Any]:
    """One service, for the node without containers."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": f"s{number:04d}", "namespace": NAMESPACE},
        "spec": {
            "model": {"name": "digits", "source": "digits://"},
            "slo": {"latency": "300ms"},
            "cpu": {"min": f"{RESTS_MILLI}m", "max": "1500m", "step": "125m"},
            "planner": {"lookBack": "100ms"},
            "template": {"spec": {"nodeSelector": SELECTOR}},
        },
    }


class World:
    """The services, their node and the operator."""

    def __init__(self, kubectl: Kubectl, api: client.ApiClient, nodes: HollowNodes, operator: Operator) -> None:
        self._kubectl = kubectl
        self._objects = client.CustomObjectsApi(api)
        self._nodes = nodes
        self.operator = operator

    async def make(self, first: int, last: int) -> float:
        """Makes services, and waits until all are Ready; returns the seconds. Raises SpongeError."""
        began = time.monotonic()
        for start in range(first, last, 100):
            items = [manifest(number) for number in range(start, min(last, start + 100))]
            document = {"apiVersion": "v1", "kind": "List", "items": items}
            await asyncio.to_thread(self._kubectl, "apply", "-f", "-", document=document)
        while (ready := await self._ready()) < last:
            self.operator.check()
            self._nodes.check()
            if time.monotonic() - began > READY_WITHIN_S:
                raise SpongeError(f"{ready} of {last} services are Ready after {READY_WITHIN_S:g} s")
            await asyncio.sleep(1.0)
        return time.monotonic() - began

    async def _ready(self) -> int:
        items = (await self._objects.list_namespaced_custom_object(*WHERE))["items"]
        told = [item.get("status", {}).get("conditions", []) for item in items]
        return sum(any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) for conditions in told)

    def pod(self, number: int) -> HollowPod:
        """The pod of a service."""
        return next(pod for pod in self._nodes.pods.values() if pod.service == f"s{number:04d}")

    async def edit(self, number: int, milli: int) -> None:
        """Sets the smallest size of a service."""
        edit = {"spec": {"cpu": {"min": f"{milli}m"}}}
        await self._objects.patch_namespaced_custom_object(*WHERE, f"s{number:04d}", edit, _content_type=MERGE)

    async def bursts(self, services: int) -> list[float]:
        """From a server's urgent state until its node sees the resize."""
        return [await self._burst(self.pod(7 * number % services)) for number in range(TIMED)]

    async def _burst(self, pod: HollowPod) -> float:
        def needs(milli: int) -> Callable[[], Awaitable[None]]:
            async def tell() -> None:
                pod.wants_milli = milli
                pod.tell()

            return tell

        await _rests(pod)
        taken_s = await _resized(pod, needs(BURST_MILLI))
        await _resized(pod, needs(0))
        return taken_s

    async def edits(self, services: int) -> list[float]:
        """From the edit of a service until its node sees the resize."""
        found = []
        for number in range(TIMED):
            which = 11 * number % services
            pod = self.pod(which)
            await _rests(pod)
            found.append(await _resized(pod, partial(self.edit, which, EDIT_MILLI)))
            await _resized(pod, partial(self.edit, which, RESTS_MILLI))
        return found

    async def change(self, services: int) -> None:
        """Edits one service after the other for a while, evenly."""
        due = time.monotonic()
        for number in track(range(round(CHANGE_S * CHANGES_PER_S)), "edits", console=Console(stderr=True)):
            milli = RESTS_MILLI + 125 * (1 + number // services % 2)
            await self.edit(number % services, milli)
            due += 1 / CHANGES_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def needs(self, services: int) -> int:
        """Lets the need of some services rise and fall for a while, evenly; returns how many resizes that made."""
        busy = min(BUSY, services)
        pods = [self.pod(number) for number in range(busy)]
        before = sum(pod.resizes for pod in pods)
        due = time.monotonic()
        for number in track(range(round(REST_S * NEEDS_PER_S)), "needs", console=Console(stderr=True)):
            pod = pods[number % busy]
            pod.wants_milli = 0 if number // busy % 2 else BURST_MILLI
            pod.tell()
            due += 1 / NEEDS_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return sum(pod.resizes for pod in pods) - before

    def calls(self) -> float:
        """Calls to the API server by everybody, up to now."""
        return sum(map(float, REQUESTS.findall(self._kubectl("get", "--raw", "/metrics"))))


async def _resized(pod: HollowPod, cause: Callable[[], Awaitable[None]]) -> float:
    """Seconds from a cause until the pod's node sees the resize. Raises SpongeError."""
    await asyncio.sleep(0.3)  # what came before has ended
    pod.resized.clear()
    began = time.monotonic()
    await cause()
    try:
        await asyncio.wait_for(pod.resized.wait(), RESIZED_WITHIN_S)
    except TimeoutError:
        raise SpongeError(f"{pod.name} was not resized within {RESIZED_WITHIN_S:g} s") from None
    return time.monotonic() - began


async def _rests(pod: HollowPod) -> None:
    """Waits until a pod has its smallest size. Raises SpongeError."""
    began = time.monotonic()
    while pod.milli != RESTS_MILLI:
        if time.monotonic() - began > RESTS_WITHIN_S:
            raise SpongeError(f"{pod.name} is at {pod.milli}m and not at {RESTS_MILLI}m after {RESTS_WITHIN_S:g} s")
        await asyncio.sleep(0.02)


async def calls_per_s(world: World) -> float:
    """Calls to the API server by everybody, per second, over a while."""
    before, began = await asyncio.to_thread(world.calls), time.monotonic()
    await asyncio.sleep(REST_S)
    after = await asyncio.to_thread(world.calls)
    return (after - before - 1) / (time.monotonic() - began)


async def measure(world: World, services: int) -> Outcome:
    """All phases. Raises SpongeError."""
    found, operator = Outcome(services), world.operator
    await world.make(0, FEW)
    await asyncio.sleep(2.0)
    found.burst_few = await world.bursts(FEW)
    found.ready_s = await world.make(FEW, services)
    await asyncio.sleep(SETTLE_S)
    used_s, control_s, began = operator.cpu_s(), control_plane_cpu_s(), time.monotonic()
    found.rest_calls = await calls_per_s(world)
    took_s = time.monotonic() - began
    found.rest_cores = (operator.cpu_s() - used_s) / took_s
    found.rest_control_cores = (control_plane_cpu_s() - control_s) / took_s
    found.rest_mib = operator.mib()
    found.burst_many = await world.bursts(services)
    found.edit = await world.edits(services)
    used_s, began = operator.cpu_s(), time.monotonic()
    await world.change(services)
    found.change_cores = (operator.cpu_s() - used_s) / (time.monotonic() - began)
    found.change_mib = operator.mib()
    await asyncio.sleep(SETTLE_S)
    used_s, control_s, began = operator.cpu_s(), control_plane_cpu_s(), time.monotonic()
    found.resize_calls, resizes = await asyncio.gather(calls_per_s(world), world.needs(services))
    took_s = time.monotonic() - began
    found.resize_cores, found.resizes_per_s = (operator.cpu_s() - used_s) / took_s, resizes / took_s
    found.resize_control_cores = (control_plane_cpu_s() - control_s) / took_s
    operator.stop()
    await asyncio.sleep(2.0)
    found.calls_alone = await calls_per_s(world)
    return found


@asynccontextmanager
async def scene(kubectl: Kubectl, services: int, log: Path) -> AsyncIterator[World]:
    """The namespace, the node and the operator; all are gone at the end."""
    settings = client.Configuration()
    await config.load_kube_config(kubectl.config, client_configuration=settings)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds"))
    if kubectl("get", "deployments", "-A", "-l", "app.kubernetes.io/name=sponge-operator", "-o", "name"):
        raise SpongeError("an operator is installed in this cluster; helm uninstall sponge -n sponge-system first")
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    kubectl("create", "namespace", NAMESPACE)
    async with client.ApiClient(settings) as api, HollowNodes(api, -(-services // PODS_EACH)) as nodes:
        operator = Operator(kubectl, log)
        try:
            yield World(kubectl, api, nodes, operator)
        finally:
            operator.stop()
            await asyncio.to_thread(kubectl, "delete", "namespace", NAMESPACE, "--wait=false")
            for _ in range(GONE_LOOKS):  # without their node the pods would stay
                if not nodes.pods:
                    break
                await asyncio.sleep(0.5)


async def run(kubectl: Kubectl, services: int, log: Path) -> Outcome:
    """Raises SpongeError."""
    async with scene(kubectl, services, log) as world:
        return await measure(world, services)


def draw(figure: Figure, found: Outcome) -> None:
    """Draws the share of resizes by delay."""
    axes = figure.subplots()
    rows = ((f"burst, {FEW} services", BLUE, found.burst_few), (f"burst, {found.services}", SPONGE, found.burst_many))
    for name, colour, seconds in rows:
        ordered = sorted(1000 * each for each in seconds)
        axes.plot(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], color=colour, label=name)
    axes.set_xlabel("ms from the server's urgent state until its node sees the resize")
    axes.set_title("share of resizes")
    axes.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--services", type=at_least_one, default=300)
    options = parser.parse_args()
    services = 30 if options.short else options.services
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        kubectl = Kubectl(up(progress=ConsoleProgress()))
        found = asyncio.run(run(kubectl, services, options.out / "operator_scale.log"))
    except SpongeError as error:
        sys.exit(f"operator_scale: {error}")
    print(
        f"{services} services, Ready after {found.ready_s:.0f} s\n"
        f"at rest: {found.rest_cores:.3f} core, {found.rest_mib:.0f} MiB, "
        f"{found.rest_calls - found.calls_alone:.1f} calls/s ({found.calls_alone:.1f} of others)\n"
        f"{CHANGES_PER_S:g} edits/s: {found.change_cores:.3f} core, {found.change_mib:.0f} MiB\n"
        f"{found.resizes_per_s:.1f} resizes/s: {found.resize_cores:.3f} core, "
        f"{found.resize_calls - found.calls_alone:.1f} calls/s, "
        f"API server and etcd {found.resize_control_cores:.3f} core ({found.rest_control_cores:.3f} at rest)"
    )
    table = new_table("ms until the node sees the resize", [""], ["p50", "p90", "p99", "max"])
    named = {f"burst, {FEW} services": found.burst_few, f"burst, {services}": found.burst_many, "edit": found.edit}
    for name, seconds in named.items():
        table.add_row(name, *(f"{value:.1f}" for value in asdict(Percentiles.of(seconds)).values()))
    Console().print(table)
    save(options.out, "operator_scale", asdict(found), lambda figure: draw(figure, found))


if __name__ == "__main__":
    main()
