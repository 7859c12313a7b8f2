"""The names of the custom resource and of the annotations by which people and fronts steer it."""

from __future__ import annotations

from typing import Final

__all__ = ["GROUP", "KIND", "PAUSE_ANNOTATION", "PLURAL", "VERSION", "WAKE_ANNOTATION"]

GROUP: Final = "serving.sponge.dev"
VERSION: Final = "v1alpha1"
PLURAL: Final = "spongeservices"
KIND: Final = "SpongeService"
PAUSE_ANNOTATION: Final = f"{GROUP}/paused"
"""Keeps the sizes as they are: `true` all of them, `grow` no larger ones, `shrink` no smaller ones."""

WAKE_ANNOTATION: Final = f"{GROUP}/wake"
"""Somebody waits for a pod of a service that has none; its value is the time in RFC 3339."""
