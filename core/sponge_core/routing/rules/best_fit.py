"""The rule of Sponge: each pod's own admission test, asked from outside.

Every pod is replayed from its last report, through what this front has sent since, to the present; and from there to
its end, once without the request and once with it. The request goes where it makes the fewest requests miss, itself
included; of those, to the pod that is done the soonest. What the request adds to that time counts twice, so that a pod
where it joins a batch is preferred to one where it needs a batch of its own.
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
        found: list[tuple[int, float, int]] = []
        for index in candidates(pods):
            outlooks = _outlooks(now, request.deadline, pods[index])
            if outlooks is None:
                return self._by_outstanding.choose(now, request, pods)
            without, also = outlooks
            found.append((also.misses - without.misses, 2.0 * also.ends_s - without.ends_s, index))
        if not found:
            return None
        misses, least_s, _ = min(found)
        best = [
            index for more, cost_s, index in found if more == misses and cost_s <= least_s * (1.0 + ALIKE) + ALIKE_S
        ]
        return best[int(self._draw() * len(best))]


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
