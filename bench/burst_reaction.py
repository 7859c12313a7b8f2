"""Bursts on the real cluster: how soon has the pod more cores, and where does the time go?

A service rests at its smallest size. A burst comes that misses its deadline there, and the kernel's quota is watched.
Two parts make the delay: until the operator sends the patch, and from the patch until the kubelet has changed the
quota. The second is the cluster's; beside each burst an idle pod is resized directly, which shows what the cluster
needs at that moment without Sponge and without load. Then the service is parked, and a first request wakes it.

    python -m bench.burst_reaction                 # 100 bursts, five minutes
    python -m bench.burst_reaction --bursts 20
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from rich.console import Console
from rich.progress import track

from bench import resize_latency
from bench.options import arguments, at_least_one
from bench.real_service import Kubectl, QuotaWatch, infer, quota_watch, service
from bench.results import BLUE, INK, SOFT, SPONGE, Percentiles, new_table, save
from sponge_cluster import ConsoleProgress, up
from sponge_cluster.chart import install_operator
from sponge_core.errors import SpongeError
from sponge_operator.clients.kube import Kube

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "bursts"
RESTS_MILLI, IDLE_MILLI = 250, 50
SPEC: dict[str, Any] = {
    "slo": {"latency": "300ms"},
    "cpu": {"min": f"{RESTS_MILLI}m", "max": "1500m", "step": "125m"},
    "planner": {"lookBack": "300ms"},
}
PARKS = {"spec": {"cpu": {"idle": f"{IDLE_MILLI}m", "idleAfter": "1s"}}}
BURST, SLO_MS, PATIENT_MS = 40, 120, 2000
NO_GROWTH_S = 0.9
"""A burst that is served at the smallest size after all needs no resize."""

RESTS_WITHIN_S = 20.0
WAKES, WARM = 20, 30
ACTUATED = re.compile(r"^(\S+) .*resize\.actuated pod=(\S+) .*\btook=([0-9.]+)")


@dataclass(slots=True)
class Outcome:
    """What was seen. Durations in seconds.

    Attributes:
        grown: for each burst, when its first request was sent and when the pod had more cores, on `time.monotonic`.
        idle_pod: from a direct patch of an idle pod until its quota has changed.
        not_needed: bursts without a resize.
        warm: latency of single requests to the service at rest.
        woken: latency of the first request to the parked service.
    """

    grown: list[tuple[float, float]] = field(default_factory=list)
    idle_pod: list[float] = field(default_factory=list)
    not_needed: int = 0
    warm: list[float] = field(default_factory=list)
    woken: list[float] = field(default_factory=list)


class IdlePod:
    """A pod without load, resized directly."""

    def __init__(self, pod: dict[str, Any], kube: Kube, watch: QuotaWatch) -> None:
        self._pod = pod
        self._kube = kube
        self._watch = watch

    async def resize(self, number: int) -> float:
        """Resizes it; returns the seconds until its quota has changed."""
        milli = resize_latency.SIZES_MILLI[number % len(resize_latency.SIZES_MILLI)]
        began = time.monotonic()
        await self._kube.resize(self._pod, "main", milli)
        return await self._watch.reaches(milli, began) - began


@contextmanager
def idle_pod(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """A pod without load, deleted at the end."""
    where = ("-n", resize_latency.NAMESPACE)
    kubectl("apply", "-f", "-", document=resize_latency.manifest())
    try:
        kubectl("wait", "--for=condition=Ready", f"pod/{resize_latency.POD}", *where, "--timeout=60s")
        yield json.loads(kubectl("get", "pod", resize_latency.POD, *where, "-o", "json"))
    finally:
        kubectl("delete", "pod", resize_latency.POD, *where, "--ignore-not-found", "--wait=false")


async def rests_at(watch: QuotaWatch, milli: int) -> None:
    """Waits until the quota is `milli`. Raises SpongeError."""
    until = time.monotonic() + RESTS_WITHIN_S
    while watch.milli != milli:
        if time.monotonic() > until:
            raise SpongeError(
                f"the pod is at {watch.milli}m and not at {milli}m after {RESTS_WITHIN_S:g} s without load"
            )
        await asyncio.sleep(0.01)


async def send_bursts(
    session: aiohttp.ClientSession, address: str, watch: QuotaWatch, idle: IdlePod, count: int
) -> Outcome:
    """Sends the bursts; resizes the idle pod before each."""
    found = Outcome()
    for number in track(range(count), "bursts", console=Console(stderr=True), transient=True):
        await rests_at(watch, RESTS_MILLI)
        found.idle_pod.append(await idle.resize(number))
        await asyncio.sleep(0.4 + 0.1 * (number % 5))  # the long poll is in another moment of its wait each time
        began = time.monotonic()
        requests = [asyncio.create_task(infer(session, address, SLO_MS)) for _ in range(BURST)]
        at = await watch.becomes(lambda milli: milli > RESTS_MILLI, began, NO_GROWTH_S)
        await asyncio.gather(*requests)
        if at is None:
            found.not_needed += 1
        else:
            found.grown.append((began, at))
    return found


async def timed(session: aiohttp.ClientSession, address: str) -> float:
    """The latency of one patient request, in seconds. Raises SpongeError if it is not answered."""
    began = time.monotonic()
    status = await infer(session, address, PATIENT_MS)
    if status != "200":
        raise SpongeError(f"a single request was answered with {status}")
    return time.monotonic() - began


async def wake(session: aiohttp.ClientSession, address: str, watch: QuotaWatch, found: Outcome) -> None:
    """Sends a single request to the parked service, again and again."""
    for _ in track(range(WAKES), "waking", console=Console(stderr=True), transient=True):
        await rests_at(watch, IDLE_MILLI)
        await asyncio.sleep(0.3)
        found.woken.append(await timed(session, address))


async def run(kubectl: Kubectl, pod: dict[str, Any], watch: QuotaWatch, count: int) -> Outcome:
    """Bursts first, then the parked service."""
    address = pod["status"]["podIP"]
    pool = aiohttp.TCPConnector(limit=0)
    with idle_pod(kubectl) as other, quota_watch(other) as idle_watch:
        async with Kube(Path(kubectl.config)) as kube, aiohttp.ClientSession(connector=pool) as session:
            await rests_at(watch, RESTS_MILLI)
            warm = [await timed(session, address) for _ in range(WARM)]
            found = await send_bursts(session, address, watch, IdlePod(other, kube, idle_watch), count)
            found.warm = warm
            await asyncio.to_thread(kubectl, "patch", "sps", NAME, "-n", NAME, "--type=merge", "-p", json.dumps(PARKS))
            await wake(session, address, watch, found)
    return found


def patches(lines: Iterable[str], pod: str) -> list[float]:
    """When the operator sent patches that came in force, on `time.monotonic`, by its log."""
    offset = time.time() - time.monotonic()
    return [
        datetime.fromisoformat(seen[1]).timestamp() - float(seen[3]) - offset
        for line in lines
        if (seen := ACTUATED.match(line)) and seen[2] == pod
    ]


def delays(found: Outcome, sent: list[float]) -> dict[str, list[float]]:
    """The rows of the table: name, and durations in seconds. `sent` has the times of the operator's patches."""
    parts = [(began, patch, at) for began, at in found.grown for patch in sent if began <= patch <= at]
    return {
        "burst: more cores in force": [at - began for began, at in found.grown],
        "burst: until the patch": [patch - began for began, patch, _ in parts],
        "burst: patch to quota": [at - patch for _, patch, at in parts],
        "idle pod: patch to quota": found.idle_pod,
        "single request, at rest": found.warm,
        "single request, parked": found.woken,
    }


def measure(kubectl: Kubectl, count: int) -> tuple[Outcome, dict[str, list[float]]]:
    """What happened, and the rows of the table. Raises SpongeError."""
    with service(kubectl, NAME, SPEC) as pod, quota_watch(pod) as watch:
        began = time.monotonic()
        found = asyncio.run(run(kubectl, pod, watch, count))
        return found, delays(found, patches(kubectl.operator_log(time.monotonic() - began), pod["metadata"]["name"]))


def draw(figure: Figure, rows: dict[str, list[float]]) -> None:
    """Draws the share of bursts by delay."""
    axes = figure.subplots()
    for (name, seconds), colour in zip(list(rows.items())[:4], (INK, BLUE, SPONGE, SOFT), strict=True):
        if seconds:
            milliseconds = sorted(1000 * each for each in seconds)
            axes.plot(
                milliseconds, [(i + 1) / len(milliseconds) for i in range(len(milliseconds))], color=colour, label=name
            )
    axes.set_xscale("log")
    axes.set_xlabel("ms")
    axes.set_title("share of resizes within so many ms")
    axes.legend(frameon=False)


def main() -> None:
    """Measures, writes and prints."""
    parser = arguments(__doc__)
    parser.add_argument("--bursts", type=at_least_one, default=100)
    options = parser.parse_args()
    count = 15 if options.short else options.bursts
    try:
        cluster = up(progress=ConsoleProgress())
        install_operator(cluster)
        found, rows = measure(Kubectl(cluster), count)
    except SpongeError as error:
        sys.exit(f"burst_reaction: {error}")
    title = f"{count} bursts, {found.not_needed} needed no resize; ms"
    table = new_table(title, [""], ["count", "p50", "p90", "p99", "max"])
    for name, seconds in rows.items():
        if seconds:
            table.add_row(
                name, str(len(seconds)), *(f"{value:.1f}" for value in asdict(Percentiles.of(seconds)).values())
            )
    Console().print(table)
    save(options.out, "burst_reaction", {"bursts": count, "seconds": rows}, lambda figure: draw(figure, rows))


if __name__ == "__main__":
    main()
