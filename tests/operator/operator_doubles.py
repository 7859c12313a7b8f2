"""The doubles of `operator_world`: its API server and the control port of its server."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sponge_core.control_api import (
    ApplyAck,
    ApplyRequest,
    LoadFailure,
    ProfileReport,
    ReleaseRequest,
    SourceReport,
    StateSnapshot,
)
from sponge_core.quantities import cpu_quantity
from sponge_operator.clients.kube import ApiError
from sponge_operator.clients.server import ServerError, StaleVersionError, Token, UnknownCallError

if TYPE_CHECKING:
    from operator_world import World


class ApiServerDouble:
    """Takes and carries out resizes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: set[asyncio.Task[None]] = set()

    async def resize(
        self, pod: Mapping[str, Any], container: str, milli: int | None, memory: int | None = None
    ) -> dict[str, Any]:
        world = self._world
        if memory is not None:
            world.record("memory", memory >> 20)
        if milli is not None:
            world.record("patch", milli)
        assert pod["metadata"]["uid"] == world.pod["metadata"]["uid"]
        refusal = world.refusal(milli or 0) if callable(world.refusal) else world.refusal
        if refusal is not None:
            raise refusal
        if milli is not None and milli > world.allocatable:
            cpu = f"cpu, requested: {milli}, allocatable: {world.allocatable}"
            body = {"details": {"causes": [{"reason": "NodeCapacity"}]}}
            raise ApiError(403, {"message": f"node didn't have enough allocatable resources: {cpu}", **body})
        await asyncio.sleep(0.008)
        metadata, resources = world.pod["metadata"], world.pod["spec"]["containers"][0]["resources"]
        size = dict(resources["limits"])
        if milli is not None:
            size["cpu"] = cpu_quantity(milli)
        if memory is not None:
            size["memory"] = str(memory)
        if resources["limits"] != size:
            metadata["generation"] += 1
            resources["limits"], resources["requests"] = size, dict(size)
            metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
            task = asyncio.create_task(world.kubelet(copy.deepcopy(world.pod)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return copy.deepcopy(world.pod)


class SourcesDouble:
    """The sources of a server.

    Attributes:
        takes_s: how long a load takes.
        failures: by source, why it cannot be loaded.
        closed: it takes no other source.
        asked: the sources that were asked for, each with the time.
    """

    def __init__(self, serving: str = "digits://") -> None:
        self.serving: str | None = serving
        self.loading: str | None = None
        self.failed: LoadFailure | None = None
        self.takes_s = 5.0
        self.failures: dict[str, LoadFailure] = {}
        self.closed = False
        self.asked: list[tuple[str, float]] = []
        self.until = 0.0

    def refuse(self, source: str, message: str, *, no_room: bool = False) -> None:
        self.failures[source] = LoadFailure(source=source, no_room=no_room, message=message)

    def ask(self, wanted: str | None) -> SourceReport:
        now = asyncio.get_running_loop().time()
        if self.closed:
            raise UnknownCallError("HTTP 404: Not Found")
        self._settle(now)
        if wanted is not None and wanted != (self.loading or self.serving):
            if self.loading is not None:
                raise StaleVersionError("HTTP 409: a version is being loaded")
            self.asked.append((wanted, now))
            self.loading, self.until = wanted, now + self.takes_s
        failed = self.failed if self.loading is None else None
        return SourceReport(serving=self.serving, loading=self.loading, failed=failed)

    def start_again(self, source: str) -> None:
        """The container starts with this source."""
        self.serving, self.loading, self.failed = source, None, None

    def _settle(self, now: float) -> None:
        if self.loading is None or now < self.until:
            return
        self.failed = self.failures.get(self.loading)
        if self.failed is None:
            self.serving = self.loading
        self.loading = None


class ControlPortDouble:
    """Answers as the server of the world does."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def state(
        self, base_url: str, token: Token, since: int = 0, wait_s: float = 0.0, tls: ssl.SSLContext | None = None
    ) -> StateSnapshot:
        world = self._world
        assert token in ("token", ("token",))
        if wait_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(world.news.wait(), wait_s)
            world.news.clear()
        if not world.reachable:
            raise ServerError("connection refused")
        if world.starting:
            raise ServerError("HTTP 503: models are being loaded")
        return world.snapshot()

    async def profile(self, base_url: str, token: Token, tls: ssl.SSLContext | None = None) -> ProfileReport:
        if not self._world.reachable:
            raise ServerError("connection refused")
        return self._world.profile

    async def source(
        self, base_url: str, token: Token, model: str, wanted: str | None, tls: ssl.SSLContext | None = None
    ) -> SourceReport:
        if not self._world.reachable:
            raise ServerError("connection refused")
        return self._world.sources.ask(wanted)

    async def state_at_quota(
        self, base_url: str, token: Token, milli: int, wait_s: float, tls: ssl.SSLContext | None = None
    ) -> StateSnapshot:
        world, end = self._world, self._world.loop.time() + wait_s
        while world.quota != milli and world.loop.time() < end:  # noqa: ASYNC110 - as the server does
            await asyncio.sleep(0.004)
        return await self.state(base_url, token)

    async def apply(
        self, base_url: str, token: Token, request: ApplyRequest, timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> ApplyAck:
        world = self._world
        if world.stalled:
            await asyncio.sleep(timeout_s)
            raise ServerError(f"did not answer within {timeout_s} s")
        if request.version <= world.message_version:
            raise StaleVersionError("stale")
        world.message_version = request.version
        world.record("apply", request.cores_milli, request.sizes.max_milli if request.sizes else None)
        world.applied = request
        return ApplyAck(
            version=request.version,
            cores_milli=request.cores_milli,
            thread_budget=1,
            batch_cap=request.batch_cap,
            now_s=world.loop.time(),
            waited_s=0.0,
        )

    async def release(
        self, base_url: str, token: Token, request: ReleaseRequest, tls: ssl.SSLContext | None = None
    ) -> None:
        world = self._world
        if not world.reachable or not world.releases:
            raise ServerError("connection refused")
        if request.version <= world.message_version:
            raise StaleVersionError("stale")
        world.message_version = request.version
        world.record("release")
        world.applied = None
