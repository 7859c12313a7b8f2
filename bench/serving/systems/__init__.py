"""The systems under test by workload and name, in the order in which they are run and shown."""

from __future__ import annotations

from bench.serving.systems.bentoml import BentoML
from bench.serving.systems.infinity import Infinity
from bench.serving.systems.interface import Knobs, Launch, System, Wire
from bench.serving.systems.litserve import LitServe
from bench.serving.systems.mlserver import MLServer
from bench.serving.systems.mosec import Mosec
from bench.serving.systems.naive import Naive
from bench.serving.systems.ray import RayServe
from bench.serving.systems.sponge import SizeBlindSponge, Sponge
from bench.serving.systems.triton import Triton
from bench.serving.workloads import BERT, RESNET18

__all__ = ["SYSTEMS", "Knobs", "Launch", "System", "Wire"]

SYSTEMS: dict[str, dict[str, type[System]]] = {
    workload.name: {system.name: system for system in systems}
    for workload, systems in (
        (RESNET18, (Sponge, Triton, Mosec, LitServe, RayServe, BentoML, MLServer, Naive)),
        (BERT, (Sponge, SizeBlindSponge, Infinity, Triton, Mosec, Naive)),
    )
}
