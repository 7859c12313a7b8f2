"""The account of a run in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SimulationResult", "TimelinePoint"]


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """The cores and replicas billed from `at_s` on."""

    at_s: float
    cores: float
    replicas: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The result of a run. Every request is in exactly one of in_time, late and shed.

    `resizes` counts size changes of running replicas, `started` counts replicas that were added. Variant 0 is the model
    itself.
    """

    sent: int
    in_time: int
    late: int
    shed: int
    core_seconds: float
    used_core_seconds: float
    duration_s: float
    resizes: int
    started: int
    latencies_s: tuple[float, ...]  # of the answered requests, from the client's send time
    in_time_by_class: dict[str, int] = field(default_factory=dict)
    sent_by_class: dict[str, int] = field(default_factory=dict)
    in_time_by_variant: dict[int, int] = field(default_factory=dict)
    timeline: tuple[TimelinePoint, ...] = ()

    @property
    def violations(self) -> float:
        """Fraction of all sent requests without an answer in time."""
        return 1.0 - self.in_time / self.sent if self.sent else 0.0

    @property
    def mean_cores(self) -> float:
        """Billed cores, averaged over the duration."""
        return self.core_seconds / self.duration_s

    @property
    def attainment(self) -> dict[str, float]:
        """Fraction of sent requests answered in time, by SLO class."""
        return {name: self.in_time_by_class.get(name, 0) / sent for name, sent in sorted(self.sent_by_class.items())}
