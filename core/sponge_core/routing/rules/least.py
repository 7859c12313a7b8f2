"""The rules that count requests: those that a front waits for, or those that a pod has. Ties are broken at random."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, candidates

__all__ = ["LeastOutstanding", "LeastQueue", "TwoChoices"]


class _Least(ABC):
    """The pod with the fewest requests.

    Args:
        draw: returns a random number in [0, 1).
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        among = self._among(candidates(pods))
        if not among:
            return None
        fewest = min(self._count(pods[index]) for index in among)
        tied = [index for index in among if self._count(pods[index]) == fewest]
        return tied[int(self._draw() * len(tied))]

    def _among(self, found: list[int]) -> list[int]:
        """Those of the pods to choose from that are compared."""
        return found

    @abstractmethod
    def _count(self, pod: PodView) -> int:
        """The requests of a pod that count."""


class LeastOutstanding(_Least):
    """The pod with the fewest requests of this front that have no answer yet, as Envoy and nginx do."""

    def _count(self, pod: PodView) -> int:
        return pod.outstanding


class TwoChoices(LeastOutstanding):
    """The same, of two pods at random."""

    def _among(self, found: list[int]) -> list[int]:
        while len(found) > 2:
            found.pop(int(self._draw() * len(found)))
        return found


class LeastQueue(_Least):
    """The pod with the fewest requests: reported, or sent by this front since."""

    def _count(self, pod: PodView) -> int:
        return len(pod.sent) + (0 if pod.load is None else pod.load.requests)
