"""Failed rows and lost lanes: the error that each request gets, and which requests run again.

A request whose lane was lost is retried once. In its second batch it runs alone, after the others: one of them may have
caused the loss, and must not take the others down again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sponge_core.edf_queue import Request
from sponge_server.engine.jobs import Job, Row
from sponge_server.results import ExpiredError, FailedError, RejectedError, RequestError, ShedError
from sponge_server.workers.interface import Item, ItemError, LaneError, NotFiniteError, RefusedError

__all__ = ["Part", "parts_of", "row_error", "shed_error", "why_not_again"]

Part = Sequence[tuple[Request, Row]]
"""Rows that run together."""


def parts_of(rows: Part) -> list[Part]:
    """Splits a batch into what runs together: first the rows of new requests, then each retried row alone.

    Rows that came for different versions of their model run apart, those of the former one first, and no part has more
    rows than its version takes.
    """
    by_version: dict[int, list[tuple[Request, Row]]] = {}
    alone: list[Part] = []
    for entry in rows:
        job = entry[1][0]
        if entry[0].id in job.retried:
            alone.append([entry])
        else:
            by_version.setdefault(job.model.place, []).append(entry)
    parts: list[Part] = []
    for _, entries in sorted(by_version.items()):
        most = entries[0][1][0].model.info.max_batch
        parts += [entries[start : start + most] for start in range(0, len(entries), most)]
    return parts + alone


def why_not_again(request: Request, job: Job, now: float, fastest_s: float, error: LaneError) -> FailedError | None:
    """The error of a request whose lane was lost; None when it can be retried.

    Args:
        fastest_s: least seconds that its model needs for one row at the size in force.
    """
    if request.id in job.retried:
        return FailedError(f"the lane was lost twice with this request: {error}")
    if request.deadline < now + fastest_s:
        return FailedError(f"the lane was lost and no time is left to try again: {error}")
    return None


def row_error(job: Job, item: Item, index: int, error: ItemError, sound: bool) -> RequestError:
    """The error of a request whose row failed in its batch: RejectedError if the input is at fault, else FailedError.

    Args:
        index: place of the row in the request.
        sound: whether the model has answered other requests.
    """
    where = f"row {index}: " if len(job.ids) > 1 else ""
    if item.images or isinstance(error, RefusedError):  # the lane is the first to look into them
        return RejectedError(f"{where}{error}")
    if bad := item.not_finite():
        return RejectedError(f"{where}{error}: its input '{bad}' holds NaN or Inf")
    if isinstance(error, NotFiniteError) and sound:
        # The model does not change while it is served, so the reason can only be the input.
        return RejectedError(f"{where}{error}, but not for others: check the scale of its input")
    return FailedError(f"{where}{error}")


def shed_error(job: Job, reason: str, now: float, backlog_s: float) -> RequestError:
    """The error of a request that the dispatch rule dropped. `reason`: see `sponge_core` `Shed.reason`."""
    limit_s, waited_s = job.due.limit_s, now - job.arrival
    if job.retried:
        return FailedError("the lane was lost with this request and no time is left to try again")
    if reason == "hopeless":
        return ShedError.hopeless(limit_s, job.due.deadline - job.arrival, backlog_s)
    if reason == "sacrificed":
        return ShedError.sacrificed(limit_s, waited_s, backlog_s)
    return ExpiredError.in_queue(limit_s, waited_s)
