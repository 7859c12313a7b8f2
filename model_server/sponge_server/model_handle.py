"""Handle of one loaded model, as passed between the protocols and the lanes."""

from __future__ import annotations

from dataclasses import dataclass

from sponge_server.bounds import Bounds
from sponge_server.deadlines import SloPolicy
from sponge_server.workers.interface import ModelInfo

__all__ = ["ModelHandle"]


@dataclass(frozen=True, slots=True, eq=False)
class ModelHandle:
    """A model that is loaded and ready to serve.

    Attributes:
        index: place among the server's models; requests, lanes and the scheduler refer to the model by it.
        info: shapes, datatypes and limits of the model.
        policy: deadlines of requests that do not state one, and the named SLO classes.
        bounds: the most that one request may contain.
    """

    index: int
    info: ModelInfo
    policy: SloPolicy
    bounds: Bounds
