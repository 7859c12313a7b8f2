"""From model sources to a server that can promise deadlines: load, warm up, take a profile of each model.

The only module that knows where profiles come from. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, replace

from sponge_core.latency import LatencyModel
from sponge_profiles.measure import BatchTime, quick_profile
from sponge_profiles.profile import Profile, load_profile
from sponge_server.cores import Cores
from sponge_server.lanes.examples import example_item
from sponge_server.lanes.interface import LanePool, ModelInfo
from sponge_server.logs import event
from sponge_server.models.source import parse
from sponge_server.settings import ServerSettings
from sponge_server.status import Status

__all__ = ["Prepared", "prepare"]

log = logging.getLogger(__name__)


MOST_ERROR = 0.5
MOST_INTERFERENCE = 0.5
"""A few seconds beside a noisy neighbour can say anything of these, and a server that believed it would refuse what it
could serve. What is really slower is learnt from the batches."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What preparing found out about one model. `profile` knows the largest batch that the model takes."""

    info: ModelInfo
    profile: LatencyModel
    profile_name: str


async def prepare(settings: ServerSettings, pool: LanePool, cores: Cores, status: Status) -> list[Prepared]:
    """Loads the models, warms every lane up and finds out how long batches take.

    Raises:
        ModelError: a model cannot be loaded or fails on a made-up batch.
        ProfileError: a profile is neither shipped nor a file, or does not make sense.
        LaneError: a lane was lost meanwhile.
    """
    # Found out before anything is loaded: a misspelt name should not cost a minute.
    for model in settings.models:
        parse(model.source)
    given = [None if model.profile == "auto" else load_profile(model.profile) for model in settings.models]
    machine = len(os.sched_getaffinity(0))
    if settings.threads > machine:
        event(log, "cores.more_than_there_are", logging.WARNING, max_cores=settings.max_cores, cpus=machine)
    began = time.monotonic()
    await pool.start(settings.lanes)
    took_s = time.monotonic() - began
    for model, info in zip(settings.models, pool.models, strict=True):
        event(log, "model.loaded", model=model.name, source=model.source, lanes=settings.lanes, took_s=took_s)
        if info.warning is not None:
            event(log, "model.warning", logging.WARNING, model=model.name, text=info.warning)
    status.phase = "warming"
    return [await _prepare(settings, pool, cores, index, profile) for index, profile in enumerate(given)]


async def _prepare(
    settings: ServerSettings, pool: LanePool, cores: Cores, index: int, profile: Profile | None
) -> Prepared:
    """Warms one model up, and measures it where it has no profile."""
    info = pool.models[index]
    threads = range(1, settings.threads + 1)
    await _warm_up(pool, index, range(1, info.max_batch + 1), threads, settings.warm_up_s)
    if profile is None:
        profile = await _measure(settings, pool, cores, index, threads)
        measured = profile.latency_model()
        model = replace(
            measured, error=min(measured.error, MOST_ERROR), interference=min(measured.interference, MOST_INTERFERENCE)
        )
    else:
        model = profile.latency_model()
    event(
        log,
        "profile.taken",
        model=info.name,
        profile=profile.name,
        alone_ms=model.latency(1, 1) * 1000,
        full_ms=model.latency(info.max_batch, 1) * 1000,
        error=model.error,
        interference=model.interference,
    )
    return Prepared(info, replace(model, max_batch=info.max_batch), profile.name)


async def _warm_up(pool: LanePool, model: int, batches: range, threads: range, limit_s: float) -> None:
    """Runs every pair that can be used, as far as the time allows; the rest pays for itself on first use."""
    began = time.monotonic()
    name = pool.models[model].name
    try:
        async with asyncio.timeout(limit_s):
            # The extremes first, on every lane: with many sizes the time may not suffice for all.
            ends = sorted({batches[0], batches[-1]}), sorted({threads[0], threads[-1]})
            await pool.warm_up(*ends, model=model)
            await pool.warm_up(batches, threads, model=model)
    except TimeoutError:
        event(log, "warm_up.cut_short", logging.WARNING, model=name, limit_s=limit_s)
    else:
        event(log, "warm_up.done", model=name, took_s=time.monotonic() - began)


async def _measure(settings: ServerSettings, pool: LanePool, cores: Cores, model: int, threads: range) -> Profile:
    """A profile from the lanes themselves, under whatever limit this process has."""
    info = pool.models[model]
    item = example_item(info, 1)

    async def run_batch(batch: int, threads: int) -> BatchTime:
        lane = next(lane for lane in pool.lanes if lane.healthy and not lane.busy)
        began = time.monotonic()
        result = await lane.run([item] * batch, threads, model=model)
        return BatchTime(time.monotonic() - began, result.cpu_s)

    quota_milli = cores.quota_milli
    machine = float(len(os.sched_getaffinity(0)))
    sizes = {1, info.max_batch, *(size for size in (2, 4, 8, 16, 32) if size < info.max_batch)}
    return await quick_profile(
        run_batch,
        sorted(sizes),
        threads,
        machine if quota_milli is None else min(machine, quota_milli / 1000),
        settings.profile_s,
        model=info.name,
        lanes=len(pool.lanes),
    )
