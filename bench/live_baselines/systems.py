"""The systems that are compared. To add one, add a line to `SYSTEMS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.live_baselines.autoscalers import (
    DEFAULT_CONFIDENCE_S,
    TUNED_HALF_LIFE_S,
    TUNED_INTERVAL_S,
    TUNED_MIN_CHANGE,
    VPA_DEFAULT,
    VPA_TUNED,
    VpaSettings,
    horizontal,
    vertical,
)
from bench.live_baselines.schedules import Target
from sponge_simulator.scaling.hpa import Hpa
from sponge_simulator.scaling.hybrid_deployed import HybridDeployed
from sponge_simulator.scaling.interface import ScalingPolicy, Service
from sponge_simulator.scaling.kpa import Kpa
from sponge_simulator.scaling.sponge_deployed import SpongeDeployed
from sponge_simulator.scaling.static import Static
from sponge_simulator.scaling.themis import Themis
from sponge_simulator.scaling.vpa import Vpa

__all__ = ["FIXED", "SYSTEMS", "System", "fixed"]

FIXED = "fixed"

Start = Literal["one", "replicas", "own"]


@dataclass(frozen=True, slots=True)
class System:
    """One way to size the service.

    Attributes:
        settings: for the table.
        policy: its decisions in virtual time; where `by_rule`, those of the live run as well.
        start: what it begins with: `one` pod of the cores that the mean rate needs, `replicas` for it, or its `own`.
        resized: its pods change their size in place.
        by_rule: this benchmark carries out what the policy decides.
        needs_metrics: metrics-server runs beside it.
        autoscaler: the object that it is configured with.
        vpa: the flags of the Vertical Pod Autoscaler's programs.
        pod_milli: of its pods at their start; None: the target's `replica_milli`.
        is_sponge: the operator runs it.
        follows_load: the operator changes the number of pods, too; each has at most the target's `replica_milli`.
        fewest_pods: of those.
        startup_milli: of each of them until it is ready; None: the operator's default.
    """

    settings: str
    policy: Callable[[Service], ScalingPolicy]
    start: Start = "replicas"
    resized: bool = False
    by_rule: bool = False
    needs_metrics: bool = False
    autoscaler: Callable[[Target], dict[str, Any]] | None = None
    vpa: VpaSettings | None = None
    pod_milli: int | None = None
    is_sponge: bool = False
    follows_load: bool = False
    fewest_pods: int = 1
    startup_milli: int | None = None

    def service(self, service: Service) -> Service:
        """The service as its servers know it: where no pod is resized, they plan with one size."""
        if self.follows_load:
            startup = None if self.startup_milli is None else self.startup_milli / 1000
            return replace(service, max_cores=service.replica_cores, startup_cores=startup)
        if self.resized:
            return service
        cores = service.replica_cores if self.pod_milli is None else self.pod_milli / 1000
        return replace(service, min_cores=cores, max_cores=cores)


SYSTEMS: Mapping[str, System] = {
    "sponge": System(
        "one pod in place, defaults",
        SpongeDeployed,
        start="own",
        resized=True,
        is_sponge=True,
    ),
    "hpa": System(
        "Kubernetes' own, CPU use of 70 %, defaults",
        Hpa,
        needs_metrics=True,
        autoscaler=horizontal,
    ),
    "kpa": System(
        "Knative's rule, 70 % of a batch in flight for each pod, windows of 60 s and 6 s",
        Kpa,
        by_rule=True,
    ),
    "themis": System(
        "its rule: cores in a surge, pods when it lasts",
        Themis,
        resized=True,
        by_rule=True,
    ),
    "vpa-tuned": System(
        f"1.8.1, InPlaceOrRecreate, {TUNED_HALF_LIFE_S:g} s half-life, {TUNED_INTERVAL_S:g} s loops, narrow bounds",
        lambda service: Vpa(
            _finely(service), TUNED_HALF_LIFE_S, TUNED_INTERVAL_S, TUNED_INTERVAL_S, TUNED_MIN_CHANGE, is_behind=True
        ),
        start="one",
        resized=True,
        needs_metrics=True,
        autoscaler=vertical,
        vpa=VPA_TUNED,
    ),
    "sponge-hybrid": System(
        "one to three pods of at most 500m that start with a core, in place; no front",
        HybridDeployed,
        start="own",
        resized=True,
        is_sponge=True,
        follows_load=True,
        startup_milli=1000,
    ),
    "vpa": System(
        "1.8.1, InPlaceOrRecreate, defaults: 24 h half-life, 60 s loops",
        lambda service: Vpa(_finely(service), confidence_s=DEFAULT_CONFIDENCE_S, is_behind=True),
        start="one",
        resized=True,
        needs_metrics=True,
        autoscaler=vertical,
        vpa=VPA_DEFAULT,
    ),
}
"""In the order of their runs."""


def _finely(service: Service) -> Service:
    """With sizes of whole millicores."""
    return replace(service, step_cores=0.001)


def fixed(milli: int) -> System:
    """One pod that keeps its size."""
    return System(f"one pod of {milli}m", lambda service: Static(service, milli / 1000), start="own", pod_milli=milli)
