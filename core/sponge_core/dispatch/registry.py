"""The dispatch policies behind one interface: the server's own, and those of other systems to compare it with.

A new policy is one file here and one line in `POLICIES`. Server and simulator run the same objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from sponge_core.dispatch.interface import Dispatcher
from sponge_core.dispatch.policies.bentoml import BentoMlLike
from sponge_core.dispatch.policies.clipper import Clipper
from sponge_core.dispatch.policies.clockwork import Clockwork
from sponge_core.dispatch.policies.moldable import MoldableEdf
from sponge_core.dispatch.policies.nexus import Nexus
from sponge_core.dispatch.policies.plain import Plain
from sponge_core.dispatch.policies.single import EdfSingleLane
from sponge_core.dispatch.policies.symphony import Symphony
from sponge_core.dispatch.policies.triton import TritonLike

__all__ = ["DEFAULT", "POLICIES", "VARIANTS", "Dispatcher", "EdfSingleLane", "MoldableEdf", "Policy", "PolicyName"]


class Policy(NamedTuple):
    """How to make a dispatcher, and what it does in one line."""

    make: Callable[[], Dispatcher]
    summary: str


PolicyName = Literal[
    "moldable-edf",
    "edf-single-lane",
    "nexus",
    "symphony",
    "clockwork",
    "clipper",
    "bentoml-like",
    "triton-like",
    "fifo",
]

DEFAULT: PolicyName = "moldable-edf"

POLICIES: dict[str, Policy] = {
    DEFAULT: Policy(MoldableEdf, "the cheapest batch and threads for the earliest deadline, lanes side by side"),
    "edf-single-lane": Policy(EdfSingleLane, "one batch at a time on all cores, by deadline, as in the paper"),
    "nexus": Policy(Nexus, "by deadline, early drop of what would force small batches"),
    "symphony": Policy(Symphony, "by deadline, a batch starts as late as its head allows"),
    "clockwork": Policy(Clockwork, "by deadline, refuses at once whom its schedule of all that waits shows to be late"),
    "clipper": Policy(Clipper, "first come, first served, batch size by additive increase"),
    "bentoml-like": Policy(BentoMlLike, "first come, first served, the oldest dropped by a regression of batch times"),
    "triton-like": Policy(TritonLike, "first come, first served, a short wait for a full batch"),
    "fifo": Policy(Plain, "first come, first served, full batches on one thread each"),
}
"""What `sponge serve --dispatch` takes."""

VARIANTS: dict[str, Policy] = {
    "no sacrifice": Policy(lambda: MoldableEdf(sacrifice=False), "moldable EDF that gives nothing up for others"),
    "one thread": Policy(lambda: MoldableEdf(threads_follow=False), "moldable EDF, every batch on one thread"),
    "one lane": Policy(lambda: MoldableEdf(lanes=False), "moldable EDF, one batch at a time"),
    "fixed batch": Policy(
        lambda: Plain(by_deadline=True, drop="hopeless"), "by deadline, full batches whatever the slack, one thread"
    ),
    "fixed batch, no shedding": Policy(lambda: Plain(by_deadline=True), "the same, and nothing is ever dropped"),
}
"""Moldable EDF with one part after the other taken away, for an ablation."""
