"""The rules that count requests: those that a front waits for, or those that a pod has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, candidates

__all__ = ["LeastOutstanding", "LeastQueue", "TwoChoices"]


class LeastOutstanding:
    """The pod with the fewest requests of this front that have no answer yet, as Envoy and nginx do.

    Args:
        draw: returns a random number in [0, 1); it breaks ties.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        return _least(pods, candidates(pods), _outstanding, self._draw)


class TwoChoices:
    """Of two pods at random the one with fewer outstanding requests.

    Args:
        draw: returns a random number in [0, 1).
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        among = candidates(pods)
        while len(among) > 2:
            among.pop(int(self._draw() * len(among)))
        return _least(pods, among, _outstanding, self._draw)


class LeastQueue:
    """The pod with the fewest requests: reported, or sent by this front since.

    Args:
        draw: returns a random number in [0, 1); it breaks ties.
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        return _least(pods, candidates(pods), _requests, self._draw)


def _least(
    pods: Sequence[PodView], among: Sequence[int], of: Callable[[PodView], int], draw: Callable[[], float]
) -> int | None:
    if not among:
        return None
    fewest = min(of(pods[index]) for index in among)
    tied = [index for index in among if of(pods[index]) == fewest]
    return tied[int(draw() * len(tied))]


def _outstanding(pod: PodView) -> int:
    return pod.outstanding


def _requests(pod: PodView) -> int:
    return len(pod.sent) + (0 if pod.load is None else pod.load.requests)
