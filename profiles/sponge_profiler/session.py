"""Measures a model and fits its profile: what `sponge profile` calls.

Checks what was asked before anything is loaded, continues an interrupted measurement, and refuses to fit cells that
contradict each other.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import scipy.optimize  # noqa: F401 - the fit at the end needs it: if it is missing, fail before measuring

from sponge_core.errors import SpongeError
from sponge_profiler.checkpoint import Checkpoint
from sponge_profiler.grid import contradicting, profile_of, waiting_share
from sponge_profiler.local import MeasurementPlan, measure
from sponge_profiler.plots import check_path, save_plot
from sponge_profiler.row_sizes import with_measured_sizes
from sponge_profiles.profile import MemoryUse, Profile
from sponge_profiles.validation import Form

if TYPE_CHECKING:
    from rich.console import Console

    from sponge_profiler.in_cluster import PodPlan

__all__ = ["ProfileRequest", "name_of", "profile_model"]

BUSY = 0.05
"""Share of the time that batches may wait for a CPU; beyond it the upper percentiles are those of the neighbours."""


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to measure, where, and what to write.

    Attributes:
        pod: the pod to measure in; None measures on this machine.
        limited: measure under a real CPU limit.
        percentile: the one that the fit is for.
        form: what predicts; `auto` takes what predicts left-out cells better.
        output: file for the profile; measured cells are kept beside it, in `OUTPUT.part`. None keeps nothing.
        restart: measure all cells, even if an earlier run has measured some.
        plots: files to draw the profile into.
    """

    plan: MeasurementPlan
    pod: PodPlan | None
    limited: bool
    percentile: Literal[50, 95, 99]
    form: Form | Literal["auto"]
    output: Path | None
    restart: bool
    plots: tuple[Path, ...]


def name_of(source: str) -> str:
    """`resnet18` of `torchvision://resnet18?weights=none`, `m` of `file:///models/m.pt2`, `digits` of `digits://`."""
    scheme, _, rest = source.partition(":")
    target = rest.partition("?")[0].strip("/").rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"\.(pt2|onnx|xml)$", "", target) or scheme or "model"


def profile_model(request: ProfileRequest, messages: Console) -> Profile:
    """Measures what is not measured yet, fits the profile, and writes the files that were asked for.

    Args:
        messages: for progress and notes; a terminal's stderr.

    Raises:
        SpongeError: the request cannot be met here, the model cannot be loaded, or cells contradict each other.
        KeyboardInterrupt: the measurement was interrupted; the same request continues it.
    """
    _check(request)
    checkpoint = _measure(request, messages)
    profile = _fit(request, checkpoint, messages)
    if request.output is not None:
        profile.save(request.output)
        checkpoint.finish()
    for path in request.plots:
        save_plot(profile, path)
    return profile


def _check(request: ProfileRequest) -> None:
    """Raises SpongeError for what cannot be measured or written here, before anything is loaded."""
    machine, most = len(os.sched_getaffinity(0)), request.plan.most_cores
    in_cluster, output = request.pod is not None, request.output
    if not request.limited and in_cluster:
        raise SpongeError("--no-limit is for this machine only: a pod is measured under its CPU limit; leave it out")
    if most > machine and not in_cluster:
        raise SpongeError(
            f"--cores {most:g}: this machine has {machine} CPUs; measure up to that, the fit extrapolates beyond it"
        )
    if not request.limited and not all(cell.whole for cell in request.plan.cells):
        raise SpongeError("--no-limit measures whole numbers of cores: leave the fractions out, or --no-limit")
    if output is not None and not output.resolve().parent.is_dir():
        raise SpongeError(f"-o {output}: there is no directory {output.resolve().parent}; create it first")
    for path in request.plots:
        check_path(path)


def _measure(request: ProfileRequest, messages: Console) -> Checkpoint:
    """Returns the checkpoint, which then holds every cell of the plan."""
    checkpoint: Checkpoint | None = None

    def open_checkpoint(about: Mapping[str, str]) -> Checkpoint:
        nonlocal checkpoint
        checkpoint = _open_checkpoint(request, about, messages)
        return checkpoint

    try:
        if request.pod is not None:
            from sponge_profiler.in_cluster import measure_in_cluster

            asyncio.run(measure_in_cluster(request.plan, request.pod, open_checkpoint, messages))
        else:
            asyncio.run(measure(request.plan, request.limited, open_checkpoint, messages))
    except (KeyboardInterrupt, asyncio.CancelledError):
        if checkpoint is not None and checkpoint.path is not None:
            _say(
                messages, f"{checkpoint.path} keeps {len(checkpoint)} visits to cells; the same command continues there"
            )
        raise KeyboardInterrupt from None
    finally:
        if checkpoint is not None:
            checkpoint.close()
    assert checkpoint is not None
    return checkpoint


def _open_checkpoint(request: ProfileRequest, about: Mapping[str, str], messages: Console) -> Checkpoint:
    output = request.output
    path = None if output is None else output.with_name(f"{output.name}.part")
    checkpoint = Checkpoint.open(path, about, request.restart)
    if len(checkpoint):
        _say(messages, f"continuing {path} with {len(checkpoint)} visits to cells; --restart measures them again")
    strangers = sorted(checkpoint.cells - set(request.plan.cells))
    if strangers:
        _say(messages, f"note: the grid has changed; left out, as not in it: {'; '.join(map(str, strangers))}")
    return checkpoint


def _fit(request: ProfileRequest, checkpoint: Checkpoint, messages: Console) -> Profile:
    """Fits the cells of the checkpoint; removes from it those that contradict each other, and raises SpongeError."""
    plan = request.plan
    measured = checkpoint.measured(plan.cells)
    if bad := contradicting(measured, request.percentile):
        checkpoint.forget(bad)
        raise SpongeError(
            f"a larger batch was faster than a smaller one: {'; '.join(map(str, bad))}; stop other programs and run "
            "the same command again: it measures these cells again"
        )
    waiting = waiting_share(measured)
    if waiting > BUSY:
        _say(
            messages,
            f"note: batches waited for a CPU for {waiting:.0%} of their time, so these are times of a busy machine; "
            "stop other programs and measure again",
        )
    memory = checkpoint.notes.get("memory")
    profile = profile_of(
        measured,
        name=plan.name,
        model=plan.source,
        source=checkpoint.notes["how"],
        machine=checkpoint.notes["machine"],
        percentile=request.percentile,
        form=request.form,
        memory=None if memory is None else MemoryUse(**memory),
    )
    sized = with_measured_sizes(profile, checkpoint)
    if sized.form != profile.form:
        _say(messages, f"note: the {profile.form} has no sizes of rows, so this profile uses the {sized.form}")
    return sized


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
