"""Startup: loads the models, warms up the lanes, and takes a profile of each model."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_profiles.profile import Profile, load_profile
from sponge_profiles.timing import BatchTime, measure_sizes, quick_profile
from sponge_server.engine.cpu_quota import CpuQuota
from sponge_server.lifecycle import Lifecycle
from sponge_server.models.source import parse, with_options
from sponge_server.observability.metrics import Metrics
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
from sponge_server.startup.profile_board import ProfileBoard, stored_profile
from sponge_server.startup.variants import check_variant
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import LaneError, LaneHung, LanePool, ModelError, ModelInfo, ModelSpec
from sponge_system.logs import event

__all__ = ["Prepared", "of_declared_sizes", "prepare", "spec_of", "warmed_up"]

log = logging.getLogger(__name__)

MOST_ERROR = 0.5
MOST_INTERFERENCE = 0.5
"""Upper bounds for a profile measured at startup. A few seconds beside a noisy neighbour can give any value, and the
server would refuse requests that it could serve. Calibration learns from the batches what is really slower."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One model that is ready to serve.

    Attributes:
        info, profile: with the largest batch that the model takes and that fits into memory.
        profile_name: where the profile came from.
        max_lanes: the most lanes that fit into memory.
        fitted: the memory of all models together, and its limit at startup.
    """

    info: ModelInfo
    profile: LatencyModel
    profile_name: str
    max_lanes: int
    fitted: Fitted


def spec_of(settings: ServerSettings, model: ModelSettings) -> ModelSpec:
    """What the lanes load. Raises ModelError when the source is of no known kind."""
    source = with_options(model.source, settings.runtime, settings.dtype, settings.accept_accuracy)
    return ModelSpec(model.name, source, model.max_batch)


async def prepare(
    settings: ServerSettings,
    pool: LanePool,
    quota: CpuQuota,
    lifecycle: Lifecycle,
    metrics: Metrics,
    boards: Sequence[ProfileBoard],
) -> list[Prepared]:
    """Loads the models, warms up every lane and takes the profiles.

    Args:
        boards: of each model and variant, in the order of `settings.loaded`.

    Raises:
        ModelError: a model cannot be loaded, fails on an example batch, or takes too long for it.
        ProfileError: a profile is neither shipped nor a file, or is invalid.
        LaneError: a lane was lost during startup.
        MemoryLimitError: the memory limit is too small for the server with its smallest batch.
    """
    # Checked before anything is loaded, because a misspelt name should not cost a minute.
    for model in settings.loaded:
        parse(model.source)
    given = [None if model.profile == "auto" else load_profile(model.profile) for model in settings.loaded]
    machine = len(os.sched_getaffinity(0))
    if settings.threads > machine:
        event(log, "cores.more_than_there_are", logging.WARNING, max_cores=settings.max_cores, cpus=machine)
    began = time.monotonic()
    fitted = await _start(settings, pool, metrics)
    took_s = time.monotonic() - began
    infos = [replace(info, max_batch=most) for info, most in zip(pool.models, fitted.batches, strict=True)]
    for model, info in zip(settings.loaded, infos, strict=True):
        event(log, "model.loaded", model=model.name, source=model.source, lanes=fitted.lanes, took_s=took_s)
        if info.warning is not None:
            event(log, "model.warning", logging.WARNING, model=model.name, text=info.warning)
    for info in infos[len(settings.models) :]:
        check_variant(infos[0], info)
    lifecycle.enter("warming")
    return [
        await warmed_up(settings, pool, quota, index, info, profile, fitted, board)
        for index, (info, profile, board) in enumerate(zip(infos, given, boards, strict=True))
    ]


async def warmed_up(
    settings: ServerSettings,
    pool: LanePool,
    quota: CpuQuota,
    index: int,
    info: ModelInfo,
    profile: Profile | None,
    fitted: Fitted,
    board: ProfileBoard,
) -> Prepared:
    """Warms up one model of a pool, and measures it if it has no profile, given or of an earlier start.

    Args:
        index: of the model in the pool.
        profile: as given; None: there is none.

    Raises ModelError, LaneError, ProfileError.
    """
    threads = range(1, settings.threads + 1)
    await _warm_up(pool, index, range(1, info.max_batch + 1), threads, settings.warm_up_s)
    origin, noisy = "given", False
    if profile is None:
        # The store keeps one profile, that of the model itself; variants are measured at each start.
        profile, origin = stored_profile(settings.profile_store, info.name, info.max_batch), "stored"
        if profile is None or (info.size is not None and profile.sizes is None):
            board.measuring()
            profile, origin = await _measure(settings, pool, quota, index, info, threads, board), "measured"
        measured = profile.latency_model()
        noisy = measured.error > MOST_ERROR or measured.interference > MOST_INTERFERENCE
        model = replace(
            measured, error=min(measured.error, MOST_ERROR), interference=min(measured.interference, MOST_INTERFERENCE)
        )
    else:
        model = of_declared_sizes(profile, info)
    board.known(profile, origin=origin, noisy=noisy)
    event(
        log,
        "profile.taken",
        model=info.name,
        profile=profile.name,
        origin=origin,
        alone_ms=model.latency(1, 1) * 1000,
        full_ms=model.latency(info.max_batch, 1) * 1000,
        gamma_ms=model.gamma * 1000,
        delta_ms=model.delta * 1000,
        epsilon_ms=model.epsilon * 1000,
        eta_ms=model.eta * 1000,
        error=model.error,
        interference=model.interference,
    )
    return Prepared(
        info,
        replace(model, max_batch=info.max_batch),
        profile.name,
        min(settings.max_lanes, fitted.most_lanes),
        fitted,
    )


def of_declared_sizes(profile: Profile, info: ModelInfo) -> LatencyModel:
    """The latency model of a given profile, with sizes only where the model declares one, joined as it says."""
    model = profile.latency_model()
    if info.size is not None and model.sizes is not None:
        return replace(model, sizes=replace(model.sizes, join=info.size.join(info.inputs)))
    if info.size is not None:
        text = "the profile has no sizes of rows, so all requests count as equal: measure it anew with `sponge profile`"
        event(log, "profile.without_sizes", logging.WARNING, model=info.name, profile=profile.name, text=text)
    elif model.sizes is not None:
        text = "the model declares no size of its rows, so all requests count as rows of the profile's reference"
        event(log, "profile.sizes_unused", logging.WARNING, model=info.name, profile=profile.name, text=text)
    return replace(model, sizes=None)


async def _start(settings: ServerSettings, pool: LanePool, metrics: Metrics) -> Fitted:
    """Loads the models and starts the lanes: as many as requested, or the fewer that fit into memory."""
    killed = oom_kills()
    try:
        await pool.start(1)
        account = account_limit(settings.max_queue_bytes)
        fitted = await fit_memory(pool, settings.lanes, settings.threads, account, settings.example_s)
        lift_guard(pool)
        pool.keep(fitted.keep_bytes)
        await pool.scale(fitted.lanes)
    except SpongeError as error:
        limit = memory_limit()
        if limit is None or not ran_out(error, killed):
            raise
        text = f"the memory limit of {limit >> 20} MiB is too small for the models"
        raise MemoryLimitError(f"{text} ({error}); raise the limit") from None
    metrics.set_memory(fitted.model, fitted.limit_bytes)
    return fitted


async def _warm_up(pool: LanePool, model: int, batches: range, threads: range, limit_s: float) -> None:
    """Runs every pair of batch size and threads, as far as time allows; others pay for set-up at their first use."""
    began = time.monotonic()
    runs, wanted = 0, len(pool.lanes) * len(batches) * len(threads)

    def ran(done: int, _: int) -> None:
        nonlocal runs
        runs = done

    name = pool.models[model].name
    try:
        async with asyncio.timeout(limit_s):
            await pool.warm_up(batches, threads, ran, model=model)
    except TimeoutError:
        skipped = wanted - runs
        event(log, "warm_up.cut_short", logging.WARNING, model=name, limit_s=limit_s, runs=runs, skipped=skipped)
    else:
        event(log, "warm_up.done", model=name, took_s=time.monotonic() - began, runs=runs)


async def _measure(
    settings: ServerSettings,
    pool: LanePool,
    quota: CpuQuota,
    model: int,
    info: ModelInfo,
    threads: range,
    board: ProfileBoard,
) -> Profile:
    """Measures a profile on the lanes, under the CPU limit of this process and larger ones that are granted."""

    async def run_batch(batch: int, threads: int, size: int | None = None) -> BatchTime:
        lane = next((lane for lane in pool.lanes if lane.healthy and not lane.busy), None)
        if lane is None:
            raise LaneError("a lane was lost while the profile was measured; the event lane.ended in the log says why")
        items = [example_item(info, 1, size)] * batch
        began = time.monotonic()
        try:
            result = await lane.run(items, threads, settings.example_s, model)
        except LaneHung:
            text = f"model {info.name} did not finish a batch of {batch} on {threads} threads of its profile"
            limit = f"within {settings.example_s:g} s: it hangs, or it needs more CPU or a larger --example-s"
            raise ModelError(f"{text} {limit}") from None
        return BatchTime(time.monotonic() - began, result.cpu_s)

    quota_milli = quota.quota_milli
    machine = float(len(os.sched_getaffinity(0)))
    # The sizes are the harder part, and their rounds include the reference.
    first_s = settings.profile_s if info.size is None else settings.profile_s / 2
    sizes = {1, info.max_batch, *(size for size in (2, 4, 8, 16, 32) if size < info.max_batch)}
    profile = await quick_profile(
        run_batch,
        sorted(sizes),
        threads,
        machine if quota_milli is None else min(machine, quota_milli / 1000),
        first_s,
        model=info.name,
        lanes=len(pool.lanes),
        grow=None if quota_milli is None else lambda cores: board.grown(cores, quota),
    )
    if info.size is None:
        return profile
    size, quota_milli, join = info.size, quota.quota_milli, info.size.join(info.inputs)
    throttled = quota_milli is not None and quota_milli < 1000
    left_s = 2 * settings.profile_s - first_s
    return await measure_sizes(run_batch, profile, size.measured, size.reference, join, left_s, throttled)
