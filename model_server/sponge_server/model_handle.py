"""Handle of one loaded model, as passed between the protocols and the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sponge_core.latency import LatencyModel
from sponge_server.bounds import Bounds
from sponge_server.deadlines import SloPolicy
from sponge_server.workers.interface import ModelInfo

__all__ = ["ModelHandle", "ServedVariant"]


@dataclass(frozen=True, slots=True)
class ServedVariant:
    """A cheaper variant of a model.

    Attributes:
        accuracy: in (0, 1].
        index: its place among what the lanes have loaded.
        profile: its latency model.
    """

    name: str
    accuracy: float
    index: int
    profile: LatencyModel


@dataclass(frozen=True, slots=True, eq=False)
class ModelHandle:
    """A model that is loaded and ready to serve.

    Attributes:
        index: place among the server's models; requests, lanes and the scheduler refer to the model by it.
        info: shapes, datatypes and limits of the model.
        policy: deadlines of requests that do not state one, and the named SLO classes.
        bounds: the most that one request may contain.
        variants: cheaper ones, the most accurate first.
        accuracy: of the model itself; None where nobody said.
    """

    index: int
    info: ModelInfo
    policy: SloPolicy
    bounds: Bounds
    variants: Sequence[ServedVariant] = ()
    accuracy: float | None = None

    def answered_by(self, variant: int) -> tuple[str, float] | None:
        """Name and accuracy of a variant, 0 for the model itself; None if there are no variants."""
        if not self.variants or self.accuracy is None:
            return None
        if variant == 0:
            return self.info.name, self.accuracy
        served = self.variants[variant - 1]
        return served.name, served.accuracy
