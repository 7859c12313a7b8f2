"""The dispatch policies by name, for the server and the simulator.

To add one, write a file in `policies`, then add its name to `PolicyName` and a line to `POLICIES`.
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
from sponge_core.dispatch.policies.packrat import Packrat
from sponge_core.dispatch.policies.plain import Plain
from sponge_core.dispatch.policies.single import EdfSingleLane
from sponge_core.dispatch.policies.symphony import Symphony
from sponge_core.dispatch.policies.triton import TritonLike

__all__ = ["DEFAULT", "POLICIES", "Dispatcher", "EdfSingleLane", "MoldableEdf", "Policy", "PolicyName"]


class Policy(NamedTuple):
    """A factory of dispatchers, and one line that says what they do."""

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
    "packrat",
    "fifo",
]

DEFAULT: PolicyName = "moldable-edf"

POLICIES: dict[str, Policy] = {
    DEFAULT: Policy(MoldableEdf, "the cheapest batch and threads for the earliest deadline, lanes side by side"),
    "edf-single-lane": Policy(EdfSingleLane, "one batch at a time on all cores, by deadline, as in the paper"),
    "nexus": Policy(Nexus, "by deadline, drops requests early that would force small batches"),
    "symphony": Policy(Symphony, "by deadline, a batch starts as late as its head allows"),
    "clockwork": Policy(
        Clockwork, "by deadline, refuses a request once the schedule of all waiting ones shows it late"
    ),
    "clipper": Policy(Clipper, "first come, first served, batch size by additive increase"),
    "bentoml-like": Policy(BentoMlLike, "first come, first served, drops the oldest by a regression of batch times"),
    "triton-like": Policy(TritonLike, "first come, first served, a short wait for a full batch"),
    "packrat": Policy(Packrat, "first come, first served, split over the instances and threads that end soonest"),
    "fifo": Policy(Plain, "first come, first served, full batches on one thread each"),
}
"""The names that `sponge serve --dispatch` accepts."""
