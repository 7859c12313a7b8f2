"""Counts how the requests of a simulated run ended."""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.edf_queue import Request

__all__ = ["TIE_S", "Tally", "sent_by_class"]

TIE_S = 1e-9
"""An answer this much after its deadline is in time: sums of the same durations differ by rounding."""


class Tally:
    """The counts so far. Every request that has ended is in exactly one of `in_time`, `late` and `shed`."""

    def __init__(self) -> None:
        self.in_time = self.late = self.shed = 0
        self.latencies_s: list[float] = []  # of the answered requests, from the client's send time
        self.in_time_by_class: dict[str, int] = {}
        self.in_time_by_variant: dict[int, int] = {}

    def answered(self, request: Request, now: float, variant: int = 0) -> None:
        """A request is answered by the model, or by one of its cheaper variants."""
        self.latencies_s.append(now - request.sent)
        if now > request.deadline + TIE_S:
            self.late += 1
            return
        self.in_time += 1
        name = request.slo_class
        self.in_time_by_class[name] = self.in_time_by_class.get(name, 0) + 1
        self.in_time_by_variant[variant] = self.in_time_by_variant.get(variant, 0) + 1


def sent_by_class(requests: Sequence[Request]) -> dict[str, int]:
    """Number of requests by SLO class."""
    found: dict[str, int] = {}
    for request in requests:
        found[request.slo_class] = found.get(request.slo_class, 0) + 1
    return found
