"""Repository: loads other versions of the models beside those that serve, lets them take over, and unloads models.

A load has four steps. The new version starts in processes of its own, while the former one serves. It takes over in one
step between two batches: requests that come from then on get the new one. The former one answers every request that
came for it. Then its processes end. A version that cannot be loaded changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from sponge_core.control_api import LoadFailure, SourceReport
from sponge_core.errors import SpongeError
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.era import Era
from sponge_server.lifecycle import Lifecycle
from sponge_server.model_handle import ModelHandle
from sponge_server.model_state import Failure, ModelState
from sponge_server.observability.metrics import Metrics
from sponge_server.protocol.problems import ProblemError
from sponge_server.serving import Serving, handle_of
from sponge_server.settings import ModelSettings, ServerSettings
from sponge_server.startup.beside import check_room, prepare_beside
from sponge_server.startup.memory_plan import Fitted, MemoryLimitError
from sponge_server.startup.profile_board import ProfileBoard
from sponge_server.startup.startup import Prepared, spec_of
from sponge_server.workers.interface import LanePool, ModelSpec
from sponge_server.workers.versioned_pool import VersionedPool
from sponge_system.logs import event

__all__ = ["Change", "Repository"]

log = logging.getLogger(__name__)

LAST_BATCH_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Change:
    """What a new version has of its own. None: as the version before it."""

    source: str | None = None
    max_batch: int | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The version of a model that serves, or served last."""

    settings: ModelSettings
    handle: ModelHandle
    fitted: Fitted


class Repository:
    """The models of one server. One load or unload runs at a time."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        handles: Sequence[ModelHandle],
        prepared: Sequence[Prepared],
        boards: Sequence[ProfileBoard],
        pool: VersionedPool,
        another: Callable[[ModelSpec], LanePool],
        quota: CpuQuota,
        lifecycle: Lifecycle,
        serving: Serving,
        metrics: Metrics,
    ) -> None:
        """A repository of the models that the server has started with.

        Args:
            handles, prepared, boards: by model, in the order of `settings.models`; variants come after them.
            another: makes a pool for a version, which has not started.
        """
        self._settings = settings
        self._boards = boards
        self._pool = pool
        self._another = another
        self._quota = quota
        self._lifecycle = lifecycle
        self._serving = serving
        self._metrics = metrics
        self._models = {
            model.name: _Loaded(model, handle, found.fitted)
            for model, handle, found in zip(settings.models, handles, prepared[: len(handles)], strict=True)
        }
        self._pools = [prepared[0].fitted]  # of each pool, the oldest first
        self._changing: asyncio.Task[str] | None = None
        self._ending: asyncio.Task[None] | None = None
        for name, state in lifecycle.states.items():
            metrics.model_version.labels(name, state.serving).set(1)

    async def load(self, name: str, change: Change = Change()) -> str:
        """Loads another version of a model, and returns its number once it serves.

        Cancelling the call does not stop the load.

        Raises ProblemError: 404 for an unknown model, 409 while another one is loaded, 422 when it cannot be loaded or
        does not fit into the memory; the former version serves on.
        """
        changing = self._begin(name, change)
        try:
            return await asyncio.shield(changing)
        except asyncio.CancelledError:
            if changing.cancelled():  # by `close`, not by the caller
                raise self._lifecycle.not_ready() from None
            raise

    def serve(self, name: str, source: str) -> SourceReport:
        """Has a source loaded, unless it serves or is being loaded; does not wait for it.

        Raises ProblemError as `load` does, except 422: what cannot be loaded is in the report.
        """
        found = self.report(name)
        if source != (found.loading or found.serving):
            self._begin(name, Change(source))
        return self.report(name)

    def report(self, name: str) -> SourceReport:
        """What is loaded of a model, and what comes and goes. Raises ProblemError 404."""
        state = self._known(name)
        failed = state.failed if state.loading is None else None
        return SourceReport(
            serving=None if state.serving is None else self._models[name].settings.source,
            loading=state.coming,
            ending=state.ending is not None,
            failed=None
            if failed is None
            else LoadFailure(source=failed.source, no_room=failed.no_room, message=failed.why),
        )

    def _begin(self, name: str, change: Change) -> asyncio.Task[str]:
        state = self._state(name)
        if self._lifecycle.phase != "ready":
            raise self._lifecycle.not_ready()
        wanted = replace(
            self._models[name].settings,
            **{field: value for field in ("source", "max_batch") if (value := getattr(change, field)) is not None},
        )
        state.newest += 1
        state.loading, state.coming = str(state.newest), wanted.source
        self._changing = asyncio.get_running_loop().create_task(self._load(wanted, state, state.loading))
        self._changing.add_done_callback(_seen)
        return self._changing

    def unload(self, name: str) -> None:
        """Takes a model out of service; requests under way are still answered. Raises ProblemError 404, 409."""
        state = self._state(name)
        if state.serving is None:
            return
        former = self._models[name].handle
        self._show(name, state, None)
        event(log, "model.unloaded", model=name, version=former.version)
        self._end(state, former, self._serving.service.take_over(name, None))

    async def give_up(self) -> None:
        """Gives up a running load, because the server ends."""
        await _cancelled(self._changing)

    async def close(self) -> None:
        """Ends what is under way. The pools that serve are not closed."""
        await self.give_up()
        await _cancelled(self._ending)

    def _known(self, name: str) -> ModelState:
        state = self._lifecycle.states.get(name)
        if state is None:
            known = ", ".join(map(repr, self._lifecycle.models))
            text = f"no model {name!r} here; this server was started with {known}, and can load versions of these"
            raise ProblemError(404, "unknown-model", text)
        return state

    def _state(self, name: str) -> ModelState:
        """The state of a model that may change now. Raises ProblemError 404, 409."""
        state = self._known(name)
        for busy, other in self._lifecycle.states.items():
            if other.loading is not None:
                text = f"version {other.loading} of {busy!r} is being loaded: wait until it serves or has failed"
                raise ProblemError(409, "load-in-progress", text)
        return state

    async def _load(self, wanted: ModelSettings, state: ModelState, version: str) -> str:
        name, began = wanted.name, time.monotonic()
        event(log, "model.load_begun", model=name, version=version, source=wanted.source, serving=state.serving)
        board = ProfileBoard(source=wanted.source)
        try:
            found, place = await self._prepared(wanted, board)
        except (SpongeError, OSError) as error:
            no_room = isinstance(error, MemoryLimitError)
            self._metrics.loads.labels(name, "no-room" if no_room else "failed").inc()
            state.failed = Failure(version, wanted.source, no_room, str(error))
            event(log, "model.load_failed", logging.ERROR, model=name, version=version, error=error)
            still = "the model stays unloaded" if state.serving is None else f"version {state.serving} serves on"
            slug = "no-room-for-version" if no_room else "load-failed"
            raise ProblemError(422, slug, f"version {version} of {name!r} was not loaded: {error}; {still}") from None
        finally:
            state.loading = state.coming = None
            self._serving.memory.use(self._present())
        self._take_over(wanted, state, version, found, place, board)
        event(log, "model.live", model=name, version=version, took_s=time.monotonic() - began)
        return version

    async def _prepared(self, wanted: ModelSettings, board: ProfileBoard) -> tuple[Prepared, int]:
        """The version, ready to serve, and its place in the pool."""
        if self._ending is not None:
            await asyncio.wait((self._ending,))
        former = self._models[wanted.name]
        spec = spec_of(self._settings, wanted)
        settings = self._settings
        if wanted.source != former.settings.source:  # what is known of the former source's times says nothing here
            wanted = replace(wanted, profile="auto")
            settings = settings.model_copy(update={"profile_store": None})
        present = self._present() if self._pools else None
        if present is not None:
            check_room(present, former.fitted)
            self._serving.memory.use(present.beside(former.fitted))
        pool = self._another(spec)
        try:
            found = await prepare_beside(settings, wanted, pool, self._quota, len(self._pool.lanes), present, board)
            return found, await self._pool.add(pool)
        except BaseException:
            await pool.close()
            raise

    def _take_over(
        self, wanted: ModelSettings, state: ModelState, version: str, found: Prepared, place: int, board: ProfileBoard
    ) -> None:
        """Nothing is awaited here, so that no batch starts in between."""
        name, settings = wanted.name, self._settings
        former = self._models[name].handle
        service = self._serving.service
        handle = handle_of(settings, wanted, found, service.account, former.index, version, place)
        was_serving = state.serving is not None
        self._models[name] = _Loaded(wanted, handle, found.fitted)
        self._pools.append(found.fitted)
        self._show(name, state, version)
        before = self._serving.take_over(handle, found.profile)
        self._boards[handle.index].take_over(board)
        self._follow()
        state.failed = None
        self._metrics.loads.labels(name, "live").inc()
        if handle.bounds.message_bytes > service.message_bytes:
            text = "gRPC refuses larger messages until the server starts again"
            event(log, "model.warning", logging.WARNING, model=name, most_bytes=service.message_bytes, text=text)
        if was_serving:
            self._end(state, former, before)

    def _show(self, name: str, state: ModelState, version: str | None) -> None:
        """The index, readiness and metrics say from now on which version serves."""
        if state.serving is not None:
            self._metrics.model_version.remove(name, state.serving)
        state.serving, state.ending, state.last = version, state.serving, version or state.last
        if version is not None:
            self._metrics.model_version.labels(name, version).set(1)

    def _end(self, state: ModelState, former: ModelHandle, before: Era) -> None:
        """Ends a version that no request gets any more, once those that came before are answered."""
        earlier = self._ending

        async def end() -> None:
            if earlier is not None:
                await asyncio.wait((earlier,))
            await before.over()
            engine = self._serving.engine
            since = engine.now()
            # The client of a request may have left while its batch still runs.
            while any(batch.started <= since for batch in engine.running.values()):  # noqa: ASYNC110 - it is rare
                await asyncio.sleep(LAST_BATCH_POLL_S)
            if self._used().isdisjoint(self._pool.together(former.place)):
                self._pools.pop(self._pool.position(former.place))
                await self._pool.remove(former.place)
                self._follow()
            if state.ending == former.version:
                state.ending = None
            event(log, "model.ended", model=former.info.name, version=former.version)

        self._ending = asyncio.get_running_loop().create_task(end())

    def _used(self) -> set[int]:
        """Places of the versions that serve."""
        states = self._lifecycle.states
        return {model.handle.place for name, model in self._models.items() if states[name].serving is not None}

    def _present(self) -> Fitted:
        """What is loaded now; the last that was, when nothing is."""
        pools = self._pools or [next(iter(self._models.values())).fitted]
        return replace(reduce(Fitted.beside, pools), lanes=len(self._pool.lanes))

    def _follow(self) -> None:
        """Memory, lanes and batches follow what is loaded."""
        present = self._present()
        loaded = [self._models[name] for name, state in self._lifecycle.states.items() if state.serving]
        max_batch = max((model.handle.info.max_batch for model in loaded), default=None)
        self._serving.follow(present, max_batch, self._settings.max_lanes)


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))


def _seen(task: asyncio.Task[str]) -> None:
    if not task.cancelled():
        task.exception()  # its caller may have left
