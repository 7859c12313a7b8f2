"""Variants at startup: they must take and give what the model does, and be faster than whatever is more accurate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from sponge_core.latency import LatencyModel
from sponge_server.model_handle import ServedVariant
from sponge_server.setting_rules import VariantSettings
from sponge_server.workers.interface import ModelError, ModelInfo
from sponge_system.logs import event

__all__ = ["check_variant", "useful"]

log = logging.getLogger(__name__)

FASTER: Final = 0.95
"""A variant is of use if a full batch takes at most this share of the time of the one before it."""


def check_variant(model: ModelInfo, variant: ModelInfo) -> None:
    """Raises ModelError, with the difference, when the variant cannot stand in for the model."""
    for what, own, other in (
        ("inputs", model.inputs, variant.inputs),
        ("outputs", model.outputs, variant.outputs),
        ("labels", model.labels, variant.labels),
        ("size of a row", model.size, variant.size),
        ("encoded images", model.accepts_images, variant.accepts_images),
    ):
        if own != other:
            text = f"variant {variant.name} differs from the model in its {what}: {other} instead of {own}"
            raise ModelError(f"{text}; a variant must take and give the same")


def useful(
    model: LatencyModel, variants: Sequence[VariantSettings], profiles: Sequence[LatencyModel], first: int
) -> list[ServedVariant]:
    """The variants that are faster than everything more accurate; the others are logged and never answer.

    Args:
        model: profile of the model itself.
        variants: the most accurate first.
        profiles: of the variants, in their order.
        first: index of the first variant among what the lanes have loaded.
    """
    found: list[ServedVariant] = []
    fastest_s = _row_s(model)
    for number, (variant, profile) in enumerate(zip(variants, profiles, strict=True)):
        row_s = _row_s(profile)
        if row_s <= FASTER * fastest_s:
            found.append(ServedVariant(variant.name, variant.accuracy, first + number, profile))
            fastest_s = row_s
        else:
            event(
                log,
                "variant.not_faster",
                logging.WARNING,
                variant=variant.name,
                row_ms=row_s * 1000,
                more_accurate_ms=fastest_s * 1000,
            )
    return found


def _row_s(profile: LatencyModel) -> float:
    """Core-seconds of a row in a full batch."""
    return profile.latency(profile.max_batch, 1) / profile.max_batch
