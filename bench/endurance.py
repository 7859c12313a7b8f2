"""Resizes one service on the real cluster once a second, under load: is anything restarted, lost, or slower at the end?

The local cluster is started if none runs, the operator is installed from this source tree, and a service `endurance` is
made. Each second its smallest size changes, and the operator resizes the pod in place, while requests arrive evenly.
Afterwards: restarts, requests without an answer, the delays of the resizes, and what the cluster keeps of them.

    python -m bench.endurance                  # 1,800 resizes, half an hour
    python -m bench.endurance --resizes 60
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes.aio import client, config
from rich.console import Console
from rich.progress import track

from bench.options import arguments, at_least_one, positive
from bench.real_service import Kubectl, QuotaWatch, infer, quota_watch, service
from bench.results import BLUE, SPONGE, Percentiles, new_table, save
from sponge_cluster import Cluster, ConsoleProgress, up
from sponge_cluster.chart import install_operator
from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP, PLURAL, VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMESPACE = NAME = "endurance"
STARTS_MILLI = 250
SIZES_MILLI = (500, STARTS_MILLI)
MERGE = "application/merge-patch+json"
RATE_RPS = 10.0
SLO_MS = 1000
SPEC = {
    "slo": {"latency": f"{SLO_MS}ms"},
    "cpu": {"min": f"{STARTS_MILLI}m", "max": "1500m", "step": "125m"},
}
PATCH_TO_QUOTA = re.compile(r"resize\.actuated .*\btook=([0-9.]+)")
ETCD_BYTES = re.compile(r"^apiserver_storage_size_bytes\{.*\} (\S+)$", re.MULTILINE)


@dataclass(slots=True)
class Outcome:
    """What was seen. Durations in seconds.

    Attributes:
        edited: from the edit of the service until the kernel's quota has changed.
        patched: from the operator's patch until the quota is in force, by the operator's log.
        statuses: of the requests; the name of the error where there was no answer.
    """

    restarts: int = 0
    edited: list[float] = field(default_factory=list)
    patched: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    events: int = 0
    etcd_growth_bytes: int = 0


async def load(address: str, statuses: Counter[str], stop: asyncio.Event) -> None:
    """Even requests until `stop`; counts how each ended."""

    async def one(session: aiohttp.ClientSession) -> None:
        statuses[await infer(session, address, SLO_MS)] += 1

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session, asyncio.TaskGroup() as tasks:
        due = time.monotonic()
        while not stop.is_set():
            tasks.create_task(one(session))
            due += 1 / RATE_RPS
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def run(kubectl: Kubectl, pod: dict[str, Any], watch: QuotaWatch, resizes: int, every_s: float) -> Outcome:
    """Edits the service once in `every_s` seconds, and waits each time until the size is in force."""
    found, stop = Outcome(), asyncio.Event()
    requests = asyncio.create_task(load(pod["status"]["podIP"], found.statuses, stop))
    # Not by kubectl: its start would take longer than the resize.
    settings = client.Configuration()
    await config.load_kube_config(kubectl.config, client_configuration=settings)
    try:
        async with client.ApiClient(settings) as connection:
            objects = client.CustomObjectsApi(connection)
            await watch.reaches(STARTS_MILLI, 0.0)
            for number in track(range(resizes), "resizing", console=Console(stderr=True), transient=True):
                milli = SIZES_MILLI[number % len(SIZES_MILLI)]
                began = time.monotonic()
                edit = {"spec": {"cpu": {"min": f"{milli}m"}}}
                where = (GROUP, VERSION, NAMESPACE, PLURAL, NAME)
                await objects.patch_namespaced_custom_object(*where, edit, _content_type=MERGE)
                found.edited.append(await watch.reaches(milli, began) - began)
                await asyncio.sleep(max(0.0, began + every_s - time.monotonic()))
    finally:
        stop.set()
        await requests
    return found


def etcd_bytes(kubectl: Kubectl) -> int:
    """The size of the API server's database."""
    sizes = ETCD_BYTES.findall(kubectl("get", "--raw", "/metrics"))
    return int(max(map(float, sizes), default=0.0))


def measure(cluster: Cluster, resizes: int, every_s: float) -> Outcome:
    """Makes the service, runs, and reads what has become of pod, events and database. Raises SpongeError."""
    kubectl = Kubectl(cluster)
    install_operator(cluster)
    with service(kubectl, NAME, SPEC) as pod, quota_watch(pod) as watch:
        before, began = etcd_bytes(kubectl), time.monotonic()
        found = asyncio.run(run(kubectl, pod, watch, resizes, every_s))
        lines = [line for line in kubectl.operator_log(time.monotonic() - began) if f"pod={NAME}" in line]
        found.patched = [float(took) for line in lines for took in PATCH_TO_QUOTA.findall(line)]
        after = kubectl.pod(NAMESPACE, NAME)
        if after["metadata"]["uid"] != pod["metadata"]["uid"]:
            raise SpongeError("the pod was replaced, so these were not resizes in place")
        found.restarts = after["status"]["containerStatuses"][0]["restartCount"]
        found.events = len(json.loads(kubectl("get", "events", "-n", NAMESPACE, "-o", "json"))["items"])
        found.etcd_growth_bytes = etcd_bytes(kubectl) - before
    return found


def draw(figure: Figure, found: Outcome) -> None:
    """Draws each resize's delays in the order of the resizes: a drift would show."""
    axes = figure.subplots()
    for name, colour, seconds in (("edit to quota", BLUE, found.edited), ("patch to quota", SPONGE, found.patched)):
        axes.plot([1000 * each for each in seconds], ".", color=colour, label=name, ms=3)
    axes.set_yscale("log")
    axes.set_xlabel("resize")
    axes.set_title("ms until the quota is in force")
    axes.legend(frameon=False)


def document(resizes: int, found: Outcome) -> dict[str, Any]:
    """What is kept of a run, as plain JSON."""
    # A counter cannot be copied as fields are: it would count its own entries.
    return {"resizes": resizes} | asdict(replace(found, statuses=Counter())) | {"statuses": dict(found.statuses)}


def main() -> None:
    """Measures, writes and prints. Exits with 1 if a container was restarted or a request was not answered."""
    parser = arguments(__doc__)
    parser.add_argument("--resizes", type=at_least_one, default=1800)
    parser.add_argument("--every-s", type=positive, default=1.0, help="between two resizes (default 1)")
    options = parser.parse_args()
    resizes = 60 if options.short else options.resizes
    try:
        found = measure(up(progress=ConsoleProgress()), resizes, options.every_s)
    except SpongeError as error:
        sys.exit(f"endurance: {error}")
    rows = {"edit to quota": found.edited, "patch to quota": found.patched}
    title = f"{resizes} resizes, {found.restarts} restarts, requests {dict(found.statuses)}; ms"
    table = new_table(title, ["until"], ["count", "p50", "p90", "p99", "max"])
    for name, seconds in rows.items():
        if seconds:
            percentiles = asdict(Percentiles.of(seconds)).values()
            table.add_row(name, str(len(seconds)), *(f"{value:.1f}" for value in percentiles))
    Console().print(table)
    print(f"events kept in the namespace: {found.events}; growth of etcd: {found.etcd_growth_bytes / 2**20:.1f} MiB")
    save(options.out, "endurance", document(resizes, found), lambda figure: draw(figure, found))
    sys.exit(found.restarts > 0 or set(found.statuses) != {"200"})


if __name__ == "__main__":
    main()
