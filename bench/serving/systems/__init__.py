"""The systems under test, by name, in the order in which they are run and shown."""

from __future__ import annotations

from bench.serving.systems.bentoml import BentoML
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.litserve import LitServe
from bench.serving.systems.mlserver import MLServer
from bench.serving.systems.mosec import Mosec
from bench.serving.systems.naive import Naive
from bench.serving.systems.ray import RayServe
from bench.serving.systems.sponge import Sponge
from bench.serving.systems.triton import Triton

__all__ = ["SYSTEMS", "Knobs", "Launch", "System", "Wire"]

_ALL = (Sponge(), Triton(), Mosec(), LitServe(), RayServe(), BentoML(), MLServer(), Naive())
SYSTEMS: dict[str, System] = {system.name: system for system in _ALL}
