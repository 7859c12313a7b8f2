"""The rule of Sponge: each pod's own admission test, asked from outside.

Every pod is replayed from its last report, through what this front has sent since, to the present; and from there to
its end, once without the request and once with it. The request goes where it makes the fewest requests miss, itself
included. Of those pods, to the one that keeps the largest margin with it, because batches take longer than predicted
and reports are late; margins beyond the whole time of a batch are all alike. Of those, to the one that answers it the
soonest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, candidates
from sponge_core.routing.pod_replay import Outlook, PodReplay
from sponge_core.routing.rules.least import LeastOutstanding

__all__ = ["BestFit"]

STALE_S: Final = 0.15
"""Reports that are so late say less about a pod than the requests that this front waits for."""

MOST_REPLAYED: Final = 512
"""With more requests at a pod a replay would take longer than the requests to come can wait for it."""

AMPLE: Final = 1.0
"""A margin that no batch uses up: it takes twice as long as predicted and is in time."""

STEPS: Final = 10
"""Margins are compared in so many steps up to `AMPLE`: what is less does not count."""

ALIKE, ALIKE_S = 0.05, 0.002
"""Pods count as equal up to this part of the time, and so many seconds: fronts must not all prefer one for a trifle."""


class BestFit:
    """Best fit by the pods' own admission tests; by outstanding requests if the report of a pod is stale or missing,
    or very many requests wait there.

    Args:
        draw: returns a random number in [0, 1); it breaks ties.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._by_outstanding = LeastOutstanding(draw)

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:
        found: list[tuple[int, int, float, int]] = []
        for index in candidates(pods):
            outlooks = _outlooks(now, request.deadline, pods[index])
            if outlooks is None:
                return self._by_outstanding.choose(now, request, pods)
            without, also = outlooks
            found.append((also.misses - without.misses, _risk(also), also.own_s, index))
        if not found:
            return None
        misses, risk, least_s, _ = min(found)
        most_s = least_s * (1.0 + ALIKE) + ALIKE_S
        best = [index for more, other, own_s, index in found if (more, other) == (misses, risk) and own_s <= most_s]
        return best[int(self._draw() * len(best))]


def _risk(outlook: Outlook) -> int:
    """0 with an ample margin, `STEPS` with none."""
    return round(STEPS * (1.0 - max(0.0, min(AMPLE, outlook.margin)) / AMPLE))


def _outlooks(now: float, deadline: float, pod: PodView) -> tuple[Outlook, Outlook] | None:
    """What becomes of the pod's requests without one more and with it; None if too little is known of the pod."""
    if pod.load is None or pod.lag_s > STALE_S or pod.load.waiting + len(pod.sent) > MOST_REPLAYED:
        return None
    model = pod.load.model()
    if model is None:
        return None
    replay = PodReplay(pod.load, model, pod.made_at)
    for sent in pod.sent:
        replay.arrive(sent.at, sent.deadline)
    replay.advance(now)
    return replay.outlook(), replay.outlook(deadline)
