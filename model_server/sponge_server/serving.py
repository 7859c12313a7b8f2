"""What serves the versions that are loaded, and how another version takes over in all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sponge_core.deadlines import SloPolicy
from sponge_core.latency import LatencyModel
from sponge_server.bounds import bounds_of
from sponge_server.control.projector import Projector
from sponge_server.control.reconfigure import Reconfigurer
from sponge_server.engine.engine import Engine
from sponge_server.era import Era
from sponge_server.inference_service import InferenceService
from sponge_server.memory_account import Account
from sponge_server.memory_watch import MemoryWatch
from sponge_server.model_handle import ModelHandle, ServedVariant
from sponge_server.settings import ModelSettings, ServerSettings
from sponge_server.startup.memory_plan import Fitted
from sponge_server.startup.startup import Prepared

__all__ = ["Serving", "handle_of"]


def handle_of(
    settings: ServerSettings,
    model: ModelSettings,
    found: Prepared,
    account: Account,
    index: int,
    version: str,
    place: int,
    variants: Sequence[ServedVariant] = (),
) -> ModelHandle:
    """The handle of a version that is ready to serve.

    Args:
        model, found: of the version.
        account: of all requests; none of them may be larger than it.
        index, version, place, variants: as in `ModelHandle`.
    """
    body_bytes = min(settings.max_body_bytes, account.most_arriving)
    return ModelHandle(
        index,
        found.info,
        SloPolicy(model.slo_s, settings.slo_classes, settings.claims, settings.accuracy_floor),
        bounds_of(found.info, body_bytes, settings.max_json_bytes),
        version,
        place,
        variants,
        settings.accuracy.get(model.name),
    )


@dataclass(frozen=True, slots=True)
class Serving:
    """The parts that must know which versions serve, and what they need."""

    service: InferenceService
    engine: Engine
    memory: MemoryWatch
    projector: Projector
    reconfigurer: Reconfigurer

    def take_over(self, handle: ModelHandle, profile: LatencyModel) -> Era:
        """Requests from now on get this version. Returns the calls that came before."""
        before = self.service.take_over(handle.info.name, handle)
        self.engine.take_over(handle, profile)
        return before

    def follow(self, present: Fitted, max_batch: int | None, max_lanes: int) -> None:
        """Memory, lanes and batches follow what is loaded.

        Args:
            max_batch: the largest one of the models that serve, in rows; None: none serves.
            max_lanes: the most lanes that the settings allow.
        """
        self.memory.use(present)
        if max_batch is not None:
            self.projector.set_max_batch(max_batch)
            self.reconfigurer.set_most(max_batch, min(max_lanes, present.most_lanes))
