"""Every experiment: which services, under which policies, with how many seeds. A new one is an entry in `EXPERIMENTS`.

This module only declares them: `runs` runs them, `report` shows the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sponge_simulator.comparison import CLAIRVOYANT
from sponge_simulator.node import JOINTLY, Node, load_node
from sponge_simulator.scaling.registry import POLICIES
from sponge_simulator.scenario import Scenario, load_scenario

__all__ = ["EXPERIMENTS", "OURS", "Experiment", "Variant", "quick"]

OURS = ("sponge", JOINTLY, "hybrid", "sponge-deployed", "hybrid-deployed")
"""The policies that the others are measured against, the first of them that takes part in an experiment above all."""

BASELINES = tuple(name for name in POLICIES if name not in OURS)
THROTTLE_TARGETS = ("captain-0", "captain-0.02", "captain-0.3")
"""Beside Captain's default target: read the best of them in each experiment."""

EVERY_POLICY = (
    *BASELINES,
    *THROTTLE_TARGETS,
    *("static-4", "static-8", "static-16"),
    *("static-4@packrat", "static-8@packrat"),
    CLAIRVOYANT,
)
ON_A_NODE = (JOINTLY, "sponge", *BASELINES, "static-2", "static-2@packrat", CLAIRVOYANT)
SWEPT = ("sponge", "sponge-paper", "fa2", "barista", "themis", CLAIRVOYANT)
SAME_DISPATCH = (
    "vpa-fast",
    "autopilot",
    "has",
    "throttllem",
    "barista",
    "inferline",
    "asyfunc",
    "static-3",
    "static-5",
)

PAPER = load_scenario("paper")
QUICK_S = 8.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting of an experiment.

    Attributes:
        at: its place on the axis of a sweep; 0 where there is none.
        slower: batches take so many times what the model predicts.
        uplink_step_s: every further seed starts so much later in the recording of the uplink.
        simulated_s: only so much of the scenario's duration is run.
    """

    scenario: Scenario | Node
    at: float = 0.0
    slower: float = 1.0
    uplink_step_s: float = 0.0
    simulated_s: float | None = None

    @property
    def duration_s(self) -> float:
        """What is run."""
        return self.scenario.duration_s if self.simulated_s is None else self.simulated_s


@dataclass(frozen=True, slots=True)
class Experiment:
    """Several variants make it a sweep along `axis`; `sensitive` ones belong to one picture."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    policies: tuple[str, ...]
    seeds: int
    axis: str = ""


def _sweep(
    name: str, title: str, axis: str, values: tuple[float, ...], change: Callable[[Variant, float], Variant]
) -> Experiment:
    """The paper's experiment with one of its quantities changed."""
    base = Variant(PAPER, simulated_s=300.0)
    variants = tuple(replace(change(base, value), at=value) for value in values)
    return Experiment(name, title, variants, SWEPT, 3, axis)


def _changed(variant: Variant, **changes: object) -> Variant:
    return replace(variant, scenario=variant.scenario.model_copy(update=changes))


def _class_changed(variant: Variant, **changes: object) -> Variant:
    only = PAPER.classes[0]
    return _changed(variant, classes=(only.model_copy(update=changes),))


def _of(
    name: str,
    title: str,
    seeds: int,
    arrivals: str | None = None,
    step_s: float = 0.0,
    ours: tuple[str, ...] = ("sponge",),
) -> Experiment:
    """All policies on a shipped scenario; of ours those that differ there."""
    scenario = load_scenario(name)
    own = name if arrivals is None else f"{name}-{arrivals}"
    policies = (*ours, *EVERY_POLICY)
    scenario = scenario if arrivals is None else scenario.model_copy(update={"arrivals": arrivals})
    return Experiment(own, title, (Variant(scenario, uplink_step_s=step_s),), policies, seeds)


def _shorter(experiment: Experiment, simulated_s: float) -> Experiment:
    """Only so much of each run."""
    return replace(experiment, variants=tuple(replace(each, simulated_s=simulated_s) for each in experiment.variants))


def _same_dispatch(name: str, title: str, seeds: int) -> Experiment:
    """How much is our dispatch rule, how much our sizes: other sizes over our dispatch rule."""
    ours = tuple(policy for policy in ("sponge", "sponge-deployed") if policy in POLICIES)
    others = tuple(f"{policy}@moldable-edf" for policy in SAME_DISPATCH)
    variant = Variant(load_scenario(name))
    return Experiment(f"{name}-dispatch", title, (variant,), (*ours, *others, CLAIRVOYANT), seeds)


EXPERIMENTS: dict[str, Experiment] = {
    each.name: each
    for each in (
        _of("paper", "The paper's experiment, Poisson arrivals", 10, "poisson"),
        _of("paper", "The paper's experiment, a burst every second", 10, "burst", step_s=61.0),
        _shorter(_of("mixed", "Two classes: 300 ms and 1000 ms", 10), 300.0),
        _shorter(_of("mixed-tight", "Two classes: 120 ms and 600 ms", 10), 300.0),
        _of("twitter", "The bursts of Twitter's stream", 3),
        _of("azure-code", "Azure's coding trace", 10),
        _of("azure-conv", "Azure's conversation trace", 10),
        _of("seldom", "A service that is seldom used", 5),
        _of("step", "A surge beyond what one pod can take", 5, ours=("hybrid", "sponge")),
        Experiment("shared", "Four services on one node", (Variant(load_node("shared")),), ON_A_NODE, 3),
        _same_dispatch("paper", "Other sizes over our dispatch rule, the paper's experiment", 3),
        _same_dispatch("mixed-tight", "Other sizes over our dispatch rule, two classes", 3),
        _sweep(
            "by-slo",
            "The SLO",
            "SLO, ms",
            (600, 700, 800, 1000, 1500, 2000),
            lambda variant, ms: _class_changed(variant, slo_ms=ms),
        ),
        _sweep(
            "by-rate",
            "The rate",
            "requests/s",
            (5, 10, 20, 30, 40, 60),
            lambda variant, rps: _changed(variant, rate_rps=rps),
        ),
        _sweep(
            "by-payload",
            "The payload",
            "KB a request",
            (0, 100, 200, 300, 400, 500),
            lambda variant, kb: _class_changed(variant, payload_bytes=int(kb * 1000)),
        ),
        _sweep(
            "by-error",
            "The error of the latency model",
            "true time / predicted time",
            (0.8, 0.9, 1.0, 1.05, 1.1, 1.2, 1.3),
            lambda variant, factor: replace(variant, slower=factor),
        ),
        _sweep(
            "by-resize",
            "The time that a resize takes",
            "ms from asking to force",
            (10, 37, 100, 300, 1000, 3000),
            lambda variant, ms: _changed(variant, resize_ms=(ms, ms, ms, ms, ms)),
        ),
    )
}


def quick(experiment: Experiment) -> Experiment:
    """A first look: seconds instead of minutes, one seed, the ends of a sweep. Its figures mean nothing."""
    ends = (
        experiment.variants if len(experiment.variants) == 1 else experiment.variants[:: len(experiment.variants) - 1]
    )
    return replace(_shorter(replace(experiment, variants=ends), QUICK_S), seeds=1)
