"""Another version of a model: loaded, warmed up and profiled in a pool of its own, beside the models that serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from sponge_core.errors import SpongeError
from sponge_profiles.profile import load_profile
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.settings import ModelSettings, ServerSettings
from sponge_server.startup.memory_plan import (
    Fitted,
    MemoryLimitError,
    account_limit,
    fit_memory,
    lift_guard,
    memory_limit,
    oom_kills,
    ran_out,
)
from sponge_server.startup.profile_board import ProfileBoard
from sponge_server.startup.startup import Prepared, warmed_up
from sponge_server.workers.interface import LanePool
from sponge_system.cgroup import own_cgroup, read_memory_held, read_memory_limit
from sponge_system.logs import event
from sponge_system.memory_growth import RESERVE_BYTES

__all__ = ["check_room", "guarded", "prepare_beside"]

log = logging.getLogger(__name__)

_MIB = 1 << 20
T = TypeVar("T")

GUARD_S = 0.01
"""Between two looks at the memory while a version is loaded; a process takes some ten MiB in that time."""


def check_room(present: Fitted, coming: Fitted) -> None:
    """Checks that the memory limit has room for what is loaded and what is to come, before that is loaded.

    Args:
        coming: an estimate of what it needs: usually the version that it replaces.

    Raises MemoryLimitError, with the numbers.
    """
    limit = memory_limit()
    both = present.beside(coming)
    if limit is None or both.model is None or both.need_bytes <= limit:
        return
    raise MemoryLimitError(
        f"it does not fit beside what is loaded: that needs {_mib(present.need_bytes)} MiB, and both together "
        f"{_mib(both.need_bytes)} if the new version is as large; the memory limit is {_mib(limit)} MiB: raise it to "
        "that, or restart the server with the new source"
    )


async def prepare_beside(
    settings: ServerSettings,
    model: ModelSettings,
    pool: LanePool,
    quota: CpuQuota,
    lanes: int,
    present: Fitted | None,
    board: ProfileBoard,
) -> Prepared:
    """Loads one model into a pool that was not started, warms up its lanes and takes a profile.

    Args:
        model: its profile "auto" is measured, beside the load; one-thread times are CPU times, which that leaves alone.
        lanes: as many as the server has.
        present: what is loaded; None: nothing is.

    Raises:
        ModelError, LaneError, ProfileError: it cannot be loaded.
        MemoryLimitError: it needs more than the memory limit has room for beside what is loaded.
    """
    given = None if model.profile == "auto" else load_profile(model.profile)
    killed = oom_kills()
    try:
        await guarded(pool.start(1))
        account = account_limit(settings.max_queue_bytes)
        if present is None:
            fitted = await fit_memory(pool, lanes, settings.threads, account, settings.example_s)
        else:
            fitted = await _fitted_beside(settings, model, pool, lanes, present, account)
        lift_guard(pool)
        pool.keep(fitted.keep_bytes)
        await pool.scale(lanes)
    except SpongeError as error:
        if not ran_out(error, killed):
            raise
        limit = _mib(memory_limit() or 0)
        raise MemoryLimitError(
            f"the memory limit of {limit} MiB is too small for it beside what is loaded ({error}); raise the limit, or "
            "restart the server with the new source"
        ) from None
    event(log, "model.loaded", model=model.name, source=model.source, lanes=lanes)
    info = replace(pool.models[0], max_batch=fitted.batches[0])
    return await warmed_up(settings, pool, quota, 0, info, given, fitted, board)


async def guarded(loading: Coroutine[Any, Any, T]) -> T:
    """The result of a load, which is cancelled before memory runs out.

    In a container, the kernel may end all of its processes together then, and with them the version that serves. The
    load itself is refused what there is no room for (`limit_growth`); this counts what the others take meanwhile, and
    what that limit does not see.
    """
    task = asyncio.get_running_loop().create_task(loading)
    try:
        cgroup = own_cgroup("memory")  # the same for the whole load; the limit in it may change
        while not task.done():
            limit, held = (None, None) if cgroup is None else (read_memory_limit(cgroup), read_memory_held(cgroup))
            if limit is not None and held is not None and held > limit - RESERVE_BYTES:
                raise MemoryLimitError(
                    f"it does not fit beside what is loaded: {_mib(held)} MiB were in use before all of it was there, "
                    f"the memory limit is {_mib(limit)} MiB; raise the limit, or restart the server with the new source"
                )
            await asyncio.wait((task,), timeout=GUARD_S)
    finally:
        task.cancel()
        await asyncio.wait((task,))
    return task.result()


async def _fitted_beside(
    settings: ServerSettings, model: ModelSettings, pool: LanePool, lanes: int, present: Fitted, account: int
) -> Fitted:
    """As `fit_memory`; raises MemoryLimitError if lanes or batches would be fewer than without the rest."""
    taken = max(0, present.need_bytes - RESERVE_BYTES - present.server_bytes)
    try:
        fitted = await fit_memory(pool, lanes, settings.threads, account, settings.example_s, taken)
    except MemoryLimitError as error:
        raise MemoryLimitError(f"what is loaded already needs {_mib(taken)} MiB, and beside it {error}") from None
    limit = memory_limit()
    if limit is None or fitted.model is None:
        return replace(fitted, limit_bytes=limit)
    alone = fitted.model.fit(limit, lanes, model.max_batch) or (lanes, 1)
    if (fitted.lanes, max(fitted.batches)) < alone:
        both = present.beside(replace(fitted, lanes=lanes, batches=(alone[1],)))
        raise MemoryLimitError(
            f"it does not fit beside what is loaded: both together need {_mib(both.need_bytes)} MiB, the memory limit "
            f"is {_mib(limit)} MiB: raise it to that, or restart the server with the new source"
        )
    return replace(fitted, limit_bytes=limit)


def _mib(size: int) -> int:
    return -(-size // _MIB)
