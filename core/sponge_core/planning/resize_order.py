"""The order of the two steps of a resize: the CPU quota, and the server's thread budget with its batch cap.

The threads that run must fit the quota at every moment. So a server that grows gets the quota first and the budget
afterwards; one that shrinks gives up the budget first, and the quota follows when the running batches fit it. The
operator, the local control loop and the simulator all ask `next_step`.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Step", "next_step"]


class Step(Enum):
    """One step of a resize; the next one waits until this one is in force."""

    BUDGET = "budget"
    """Tell the server its thread budget and batch cap; in force when its running batches fit them."""

    QUOTA = "quota"
    """Set the CPU quota; in force when the kernel limits the server to it."""


def next_step(quota: float, target: float, acknowledged: bool) -> Step | None:
    """The step that is due now; None when the resize is complete.

    Args:
        quota: CPU quota in force, in any unit.
        target: the size to reach, in the same unit.
        acknowledged: the server has acknowledged the budget and cap of `target`, and its running batches fit them.
    """
    if not acknowledged and target <= quota:
        return Step.BUDGET
    if quota != target:
        return Step.QUOTA
    return None if acknowledged else Step.BUDGET
