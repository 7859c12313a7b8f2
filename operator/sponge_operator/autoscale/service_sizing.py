"""How the servers of a service may be sized, by its spec. Pure."""

from __future__ import annotations

from dataclasses import replace

from sponge_operator.autoscale.pace import Pace
from sponge_operator.autoscale.recommender import SizingSpec, sizes_within
from sponge_operator.resources.model import SpongeService

__all__ = ["sizing_of", "while_it_loads"]


def sizing_of(service: SpongeService) -> SizingSpec:
    """How each server of a service may be sized."""
    cpu, planner = service.spec.cpu, service.spec.planner
    return SizingSpec(
        cpu.sizes,
        cpu.idle,
        cpu.idle_after,
        planner.look_back,
        float(service.spec.slo.weight),
        planner.fallback_after,
        acts=service.spec.mode == "Auto" and not service.paused,
        measures=service.spec.profile.is_measured,
        policy=planner.policy,
        slo_s=service.spec.slo.latency,
        max_batch=service.spec.batch.max,
        pace=Pace(
            cpu.max_grow.milli if cpu.max_grow is not None else None,
            cpu.max_grow.percent if cpu.max_grow is not None else None,
            cpu.grow_cooldown,
            cpu.shrink_cooldown,
            service.paused_direction,
        ),
        boost_milli=cpu.boost,
    )


def while_it_loads(spec: SizingSpec, startup_milli: int | None) -> SizingSpec:
    """The same for a server that loads another version of its model, as one that starts does, and serves beside.

    Args:
        startup_milli: the size that its pod starts with; None if that is not known.
    """
    return replace(spec, sizes=sizes_within(spec.sizes, startup_milli, None), idle_milli=None)
