"""The rules of fronts that know nothing of their pods: at random, and in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sponge_core.edf_queue import Request
from sponge_core.routing.interface import PodView, candidates

__all__ = ["InTurn", "Random"]


class Random:
    """Any pod, as kube-proxy's iptables and nftables modes choose for each connection.

    Args:
        draw: returns a random number in [0, 1).
    """

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        among = candidates(pods)
        return among[int(self._draw() * len(among))] if among else None


class InTurn:
    """One pod after the other, by name."""

    def __init__(self) -> None:
        self._last = ""

    def choose(self, now: float, request: Request, pods: Sequence[PodView]) -> int | None:  # noqa: ARG002
        among = sorted(candidates(pods), key=lambda index: pods[index].name)
        if not among:
            return None
        following = (index for index in among if pods[index].name > self._last)
        chosen = next(following, among[0])
        self._last = pods[chosen].name
        return chosen
