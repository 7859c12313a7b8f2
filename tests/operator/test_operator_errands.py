"""What runs beside the operator for a moment: the check of `helm test`, and the stop before `helm uninstall`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any, cast

import pytest
from aiohttp import web
from command_line import sponge
from operator_cluster import Cluster
from virtual_time import VirtualLoop, run_virtual

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_operator.check import healthy
from sponge_operator.clients.kube import ApiError, Kube
from sponge_operator.health import Health
from sponge_operator.retire import PATIENCE_S, retire

OWN = ("team-a", "sponge-operator")
LABELS = {"app.kubernetes.io/name": "sponge-operator"}


def free_port(family: socket.AddressFamily, host: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_the_health_of_an_operator_is_read_over_both_families(family: socket.AddressFamily, host: str) -> None:
    port = free_port(family, host)
    async with Health(port):
        await healthy(authority(host, port), 0.0)


async def test_an_operator_that_is_not_healthy_is_told_with_its_answer() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"alive": False, "deadWatches": ["/api/v1/pods"]}, status=503)

    app = web.Application()
    app.router.add_get("/healthz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port(socket.AF_INET, "127.0.0.1")
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        with pytest.raises(SpongeError, match=r"deadWatches.*look at its log"):
            await healthy(f"127.0.0.1:{port}", 0.0)
    finally:
        await runner.cleanup()
    with pytest.raises(SpongeError, match="not healthy"):
        await healthy(f"127.0.0.1:{port}", 0.0)


class Leaving(Cluster):
    """A cluster whose Deployment has one pod, which ends `after_s` after the Deployment wants none; None: never."""

    def __init__(self, after_s: float | None) -> None:
        super().__init__()
        self.after_s = after_s
        self.wanted_none_at: float | None = None
        self.deleted: list[str] = []
        self.refused: set[str] = set()
        self.put("Deployment", "sponge-operator")["spec"] = {"replicas": 2, "selector": {"matchLabels": LABELS}}

    async def list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        assert (kind, namespace) == ("Pod", "team-a")
        others: list[dict[str, Any]] = [{"metadata": {"labels": {"app": "other"}}}, {"metadata": {}}]
        own: dict[str, Any] = {"metadata": {"labels": {**LABELS, "pod-template-hash": "x"}}}
        if self.wanted_none_at is None or self.after_s is None:
            return [*others, own]
        is_gone = asyncio.get_running_loop().time() >= self.wanted_none_at + self.after_s
        return others if is_gone else [*others, own]

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        if kind in self.refused:
            raise ApiError(403, {"message": "forbidden"})
        assert (kind, patch) == ("Deployment", {"spec": {"replicas": 0}})
        self.objects[kind, name]["spec"]["replicas"] = 0
        self.wanted_none_at = asyncio.get_running_loop().time()
        return {}

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        if kind in self.refused:
            raise ApiError(403, {"message": "forbidden"})
        self.deleted.append(f"{kind} {namespace}/{name}")


def retired(cluster: Leaving) -> tuple[bool, float]:
    """What `retire` returns, and how long it takes."""
    found: list[tuple[bool, float]] = []

    async def scenario(loop: VirtualLoop) -> None:
        began = loop.time()
        stopped = await retire(cast(Kube, cluster), OWN, OWN)
        found.append((stopped, loop.time() - began))

    run_virtual(scenario)
    return found[0]


def test_the_operator_is_stopped_before_its_lease_goes() -> None:
    cluster = Leaving(after_s=3.0)
    stopped, took_s = retired(cluster)
    assert stopped
    assert 3.0 <= took_s <= 4.0
    assert cluster.deleted == ["Lease team-a/sponge-operator"]


def test_an_operator_that_is_not_there_is_no_obstacle() -> None:
    cluster = Leaving(after_s=None)
    del cluster.objects["Deployment", "sponge-operator"]
    assert retired(cluster) == (True, 0.0)


@pytest.mark.parametrize(("after_s", "refused"), [(None, ""), (1.0, "Deployment"), (1.0, "Lease")])
def test_it_ends_whatever_goes_wrong(after_s: float | None, refused: str) -> None:
    cluster = Leaving(after_s)
    cluster.refused.add(refused)
    stopped, took_s = retired(cluster)
    assert stopped == (refused == "Lease")
    assert took_s <= PATIENCE_S
    assert cluster.deleted == []


@pytest.mark.parametrize("value", ["operator", "a/b/c", "/a", "a/"])
def test_a_name_without_its_namespace_is_refused(value: str) -> None:
    done = sponge("operator", "retire", "--deployment", value)
    assert done.returncode == 2
    assert "write NAMESPACE/NAME" in done.stderr
