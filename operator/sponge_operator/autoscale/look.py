"""The values of one look at a server, in order: Observation, Recommendation, Allocation, ResizeOutcome. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sponge_core.control_api import SizeRange, StateSnapshot
from sponge_core.planning.decider import Recommendation
from sponge_operator.autoscale.quota_state import Observed, actual_milli
from sponge_operator.autoscale.resize import History

__all__ = ["Allocation", "Look", "Observation", "OutcomeKind", "ResizeOutcome"]

OutcomeKind = Literal["actuated", "deferred", "infeasible", "rejected", "timeout", "error", "applied"]
"""In force; no room now; never room; refused; not in force in time; failed; only the batch cap or range changed."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A server's fresh state.

    Attributes:
        at: seconds on the loop's clock.
        quota: the state of its CPU quota.
        history: its resizes so far, at `at`.
        sizes: the sizes that it may have under the present ceiling.
        ceiling_milli: the largest size that is not refused; None for no known limit.
        floor_milli: the smallest one.
    """

    at: float
    snapshot: StateSnapshot
    quota: Observed
    history: History
    sizes: SizeRange
    ceiling_milli: int | None = None
    floor_milli: int | None = None

    @property
    def current_milli(self) -> int | None:
        """The size in force; None where no resize is possible."""
        return actual_milli(self.quota)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a server gets now of its recommended size.

    Attributes:
        recommendation: the size for now.
        lacks_milli: the difference to what was recommended for the server alone.
        refused: the joint plan gives the lacking cores to other servers.
        waits: the joint plan has more for it than is free now; the rest comes when others have shrunk.
        message: for people, why it lacks cores; empty if it does not.
    """

    recommendation: Recommendation
    lacks_milli: int = 0
    refused: bool = False
    waits: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class ResizeOutcome:
    """The result of acting on an allocation.

    Attributes:
        kind: None if nothing was done.
        quota: the state of the quota afterwards.
        took_s: from the request to the quota in force; only if actuated.
        trouble: why the server did not acknowledge its budget; empty if it did, or was not asked.
        held: what holds the resize back though nothing refuses it; empty if nothing does.
        overdue: the size that was requested is not in force after the usual time.
    """

    kind: OutcomeKind | None
    history: History
    quota: Observed
    took_s: float | None = None
    trouble: str = ""
    held: str = ""
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """One look from its observation to its outcome; a stage that was not reached is None.

    Attributes:
        trouble: why the server cannot be reached; empty if it can.
        starting_milli: the size that a server which is not ready was given for its start; None if it needed none.
        recommended_in_s: time that the recommendation took.
        took_s: from the observation to the end.
    """

    observation: Observation | None = None
    recommendation: Recommendation | None = None
    allocation: Allocation | None = None
    outcome: ResizeOutcome | None = None
    trouble: str = ""
    starting_milli: int | None = None
    recommended_in_s: float = 0.0
    took_s: float = 0.0
