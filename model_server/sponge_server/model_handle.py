"""Handle of one loaded version of a model, as passed between the protocols and the lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sponge_core.deadlines import SloPolicy
from sponge_core.latency import LatencyModel
from sponge_server.bounds import Bounds
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
    """A version of a model that is loaded and ready to serve.

    Attributes:
        index: place of the model among the server's models, whatever its version: queue and scheduler know it by this.
        info: shapes, datatypes and limits of the version.
        policy: deadlines of requests that do not state one, and the named SLO classes.
        bounds: the most that one request may contain.
        version: as in the URLs.
        place: index of the version in the pool's `models`: the lanes know it by this.
        variants: cheaper ones, the most accurate first.
        accuracy: of the model itself; None where nobody said.
    """

    index: int
    info: ModelInfo
    policy: SloPolicy
    bounds: Bounds
    version: str
    place: int
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
