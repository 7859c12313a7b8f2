"""One model of the server, as everything between the protocols and the lanes knows it.

Plain data. Where a decision needs no more than which model is meant, `index` goes along instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from sponge_server.deadlines import SloPolicy
from sponge_server.observability.request_stats import ModelBooks
from sponge_server.workers.interface import ModelInfo

__all__ = ["ServedModel"]


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that is loaded and ready to serve.

    Attributes:
        index: its place among the server's models: what requests, lanes and the scheduler know it by.
        policy: when answers are due to requests that do not say.
    """

    index: int
    info: ModelInfo
    policy: SloPolicy
    books: ModelBooks

    @property
    def name(self) -> str:
        """In URLs, metrics and logs."""
        return self.info.name
