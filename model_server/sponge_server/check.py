"""`sponge check`: loads a model as the server does, runs it on a lane, and says what is missing and how to mend it.

The model runs in the processes of a worker pool, so that whatever it does, the check itself goes on and can tell.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sponge_core.datatypes import NUMPY_TYPES
from sponge_core.errors import SpongeError
from sponge_server.models.source import parse
from sponge_server.startup.memory_plan import measure_memory
from sponge_server.workers.examples import example_item
from sponge_server.workers.interface import (
    ItemError,
    ModelInfo,
    ModelSpec,
    NotFiniteError,
    StartLimits,
    TensorSpec,
)
from sponge_server.workers.pool import WorkerPool

__all__ = ["Finding", "Report", "Step", "check", "run"]

Step = Callable[[str], None]
"""Called with what the check does next."""

NAME = "model"

_TOLERANCE = 1e-3
"""Largest difference of a row's answer, relative to the largest number in it: sums in another order differ less."""

_OWN_THREADS, _LEAST_CPU_S = 0.3, 0.05
"""A model that spends this share of its CPU time in threads of its own, and at least so many seconds, is told so."""

_RUNS = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `level`: "ok", "warning" (it can be served) or "error" (it cannot)."""

    level: str
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, in the order of the check.

    Attributes:
        info: the model; None if it was not loaded.
        times_s: seconds of a batch, by rows and threads.
        need_bytes: memory that a server with one lane and the largest batch needs; None if unknown.
    """

    source: str
    findings: tuple[Finding, ...]
    info: ModelInfo | None = None
    times_s: dict[tuple[int, int], float] | None = None
    need_bytes: int | None = None

    @property
    def good(self) -> bool:
        """Whether the model can be served."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        info = self.info
        return {
            "source": self.source,
            "ok": self.good,
            "findings": [{"level": f.level, "what": f.what, "text": f.text} for f in self.findings],
            "platform": None if info is None else info.platform,
            "inputs": [] if info is None else [_spec(spec, info) for spec in info.inputs],
            "outputs": [] if info is None else [_spec(spec, info) for spec in info.outputs],
            "batch_ms": [
                {"batch": rows, "threads": threads, "ms": round(seconds * 1000, 3)}
                for (rows, threads), seconds in (self.times_s or {}).items()
            ],
            "memory_bytes": self.need_bytes,
        }


async def check(source: str, max_batch: int, limits: StartLimits, memory_bytes: int | None, step: Step) -> Report:
    """Checks a source. Whatever is wrong with the model is in the report.

    Args:
        max_batch: the largest batch that is run.
        memory_bytes: the memory that each process may have, for as long as this process lives; None: no limit.
    """
    found = _Check(source, step)
    try:
        parse(source)
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        await found.run(max_batch, limits, memory_bytes)
    except SpongeError as error:
        found.add("error", found.doing, _plainly(str(error), memory_bytes))
    return found.report()


class _Check:
    """One check: what it does now, and what it has found."""

    def __init__(self, source: str, step: Step) -> None:
        self.doing = "source"
        self._source = source
        self._step = step
        self._findings: list[Finding] = []
        self._info: ModelInfo | None = None
        self._times: dict[tuple[int, int], float] = {}
        self._need: int | None = None

    def add(self, level: str, what: str, text: str) -> None:
        self._findings.append(Finding(level, what, text))

    def report(self) -> Report:
        return Report(self._source, tuple(self._findings), self._info, self._times, self._need)

    async def run(self, max_batch: int, limits: StartLimits, memory_bytes: int | None) -> None:
        """Every part of the check, in order. Raises SpongeError where the model cannot be served."""
        self._begin("load", "loading the model and running an example")
        began = time.monotonic()
        pool = WorkerPool([ModelSpec(NAME, self._source, max_batch)], limits)
        try:
            await pool.start(1)
            info = self._info = pool.models[0]
            self.add("ok", "load", f"loaded in {time.monotonic() - began:.1f} s, runs as {info.platform}")
            self.add("ok", "inputs", ", ".join(_described(spec, info) for spec in info.inputs) + _images(info))
            self.add("ok", "outputs", ", ".join(_described(spec, info) for spec in info.outputs))
            if info.warning is not None:
                self.add("warning", "answers", info.warning)
            self._begin("memory", "running batches of growing size")
            await self._memory(pool, memory_bytes, limits)
            self._begin("answers", "comparing answers")
            await self._answers(pool, info, limits.example_s)
            self._begin("speed", "timing batches")
            await self._speed(pool, info, limits.example_s)
        finally:
            await pool.close()

    def _begin(self, what: str, text: str) -> None:
        self.doing = what
        self._step(text)

    async def _memory(self, pool: WorkerPool, memory_bytes: int | None, limits: StartLimits) -> None:
        model, reached = await measure_memory(pool, 1, memory_bytes, limits.example_s)
        most = self._info.max_batch if self._info is not None else 1
        if reached[0] < most:
            self.add(
                "warning",
                "memory",
                f"a batch of {most} does not fit: the largest that ran is {reached[0]}; use --max-batch {reached[0]}, "
                "or more memory (spec.memory.base of a SpongeService)",
            )
        if model is not None:
            self._need = model.need(1, reached[0])
            text = f"one lane with batches of up to {reached[0]} needs about {_mib(self._need)} MiB"
            if memory_bytes is not None and self._need > memory_bytes:
                self.add("error", "memory", f"{text}, more than {_mib(memory_bytes)} MiB: raise the limit")
            else:
                self.add("ok", "memory", f"{text}: spec.memory.base of a SpongeService must be larger")

    async def _answers(self, pool: WorkerPool, info: ModelInfo, example_s: float) -> None:
        """Whether a row's answer depends on the other rows of its batch, or on chance."""
        lane = pool.lanes[0]
        rows = [example_item(info, 1, seed=seed) for seed in range(min(4, info.max_batch))]
        together = await lane.run(rows, 1, example_s)
        again = await lane.run(rows, 1, example_s)
        alone = [(await lane.run([row], 1, example_s)).outputs[0] for row in rows]
        failed = next((one for one in together.outputs if isinstance(one, ItemError)), None)
        if isinstance(failed, NotFiniteError):
            if info.warning is None:
                self.add("warning", "answers", f"{failed}: made-up numbers; if the model means it, set finite=False")
            return
        if failed is not None:
            self.add("warning", "answers", f"with other made-up numbers than before: {failed}")
            return
        if _apart(together.outputs, again.outputs) > 0:
            text = "the same request gets other answers the second time: call .eval() on the model, or fix its seed"
            self.add("warning", "answers", text)
        elif (apart := _apart(together.outputs, alone)) > _TOLERANCE:
            text = (
                f"a row's answer depends on the other rows of its batch (it differs by {apart:.2g}): call .eval() on "
                "the model, and take no mean or norm over the first dimension"
            )
            self.add("warning", "answers", text)
        else:
            self.add("ok", "answers", "the same alone, in a batch, and when asked again")

    async def _speed(self, pool: WorkerPool, info: ModelInfo, example_s: float) -> None:
        lane, sizes = pool.lanes[0], sorted({1, info.max_batch})
        pid = pool.lane_pids[0]
        before = _cpu_s(pid)
        for threads in (1, 2):
            for rows in sizes:
                results = [await lane.run([example_item(info, rows)], threads, example_s) for _ in range(_RUNS)]
                self._times[rows, threads] = min(result.batch_s for result in results)
            if threads == 1:
                elsewhere, own = (now - then for now, then in zip(_cpu_s(pid), before, strict=True))
        times = ", ".join(f"{r} rows on {k}: {s * 1000:.1f} ms" for (r, k), s in self._times.items())
        self.add("ok", "speed", times)
        if elsewhere > max(_LEAST_CPU_S, _OWN_THREADS * own):
            text = (
                "it computes in threads of its own, so it does not keep to the threads that a batch may use: limit its "
                "library's pool to one thread (threadpoolctl, or an option such as intra_op_num_threads)"
            )
            self.add("warning", "threads", text)


def _cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds so far of a lane's other threads, ended ones included, and of the one that runs batches."""
    whole, own = (
        sum(int(field) for field in path.read_text().rpartition(")")[2].split()[11:13]) / os.sysconf("SC_CLK_TCK")
        for path in (Path(f"/proc/{pid}/stat"), Path(f"/proc/{pid}/task/{pid}/stat"))
    )
    return whole - own, own


def _apart(first: Sequence[Any], second: Sequence[Any]) -> float:
    """The largest difference of numbers in both, relative to the largest of them; infinite where shapes differ."""
    worst = 0.0
    for ours, theirs in zip(first, second, strict=True):
        if isinstance(ours, ItemError) or isinstance(theirs, ItemError):
            worst = math.inf
            continue
        for a, b in zip(ours, theirs, strict=True):
            if a.shape != b.shape:
                worst = math.inf
            elif a.datatype in NUMPY_TYPES and a.datatype != "BOOL":
                x, y = (np.frombuffer(t.data, NUMPY_TYPES[t.datatype]).astype(float) for t in (a, b))
                if x.size:
                    worst = max(worst, float(np.abs(x - y).max()) / max(1e-12, float(np.abs(x).max())))
            elif bytes(a.data) != bytes(b.data):
                worst = math.inf
    return worst


def _plainly(text: str, memory_bytes: int | None) -> str:
    """The text of an error; where memory ran out under a limit, with that limit."""
    said = ("allocate memory", "Unable to allocate", "MemoryError", "bad_alloc", "out of memory")
    if memory_bytes is not None and any(part in text for part in said):
        return f"{_mib(memory_bytes)} MiB are too small for this model: raise the limit ({text})"
    return text.removeprefix(f"model {NAME}: ").replace(f"--max-batch {NAME}=", "--max-batch ")


def _described(spec: TensorSpec, info: ModelInfo) -> str:
    return f"{spec.name} {spec.datatype} {info.wire_shape(spec)}" + (" ragged" if spec.ragged else "")


def _spec(spec: TensorSpec, info: ModelInfo) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": info.wire_shape(spec)}


def _images(info: ModelInfo) -> str:
    return ", or encoded images" if info.accepts_images else ""


def _mib(size: int) -> int:
    return -(-size // _MIB)


def run(source: str, max_batch: int, limits: StartLimits, memory_bytes: int | None, step: Step) -> Report:
    """`check` on an event loop of its own."""
    return asyncio.run(check(source, max_batch, limits, memory_bytes, step))
