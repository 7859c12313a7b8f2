"""The interface of a dispatch policy, which the server and the simulator call."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sponge_core.dispatch.decision import Decision, DispatchState

__all__ = ["Dispatcher"]


class Dispatcher(ABC):
    """Decides which batches to start now, and may learn from how they end. Pure: time comes in with the state."""

    @abstractmethod
    def decide(self, state: DispatchState) -> Decision:
        """The batches to launch now, the requests to shed, and when to decide again at the latest."""

    def ended(self, model: int, batch: int, in_time: bool) -> None:  # noqa: B027 - most policies do not learn
        """Tells the policy that a batch ended.

        Args:
            model: index of its model.
            batch: number of requests in it.
            in_time: it ended before the earliest deadline in it.
        """
