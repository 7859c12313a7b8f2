"""The systems under test, by name, in the order in which they are run and shown."""

from __future__ import annotations

from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.naive import Naive
from bench.serving.systems.sponge import Sponge

__all__ = ["SYSTEMS", "Knobs", "Launch", "System", "Wire"]

SYSTEMS: dict[str, System] = {system.name: system for system in (Sponge(), Naive())}
