"""Why a request is refused or has failed, as the problem that its client is told. Pure."""

from __future__ import annotations

from sponge_core.deadlines import BadHeaderError, Due
from sponge_server.engine.scheduler import Scheduler
from sponge_server.model_handle import ModelHandle
from sponge_server.protocol.oip import InferRequest, rows_of
from sponge_server.protocol.problems import ELSEWHERE, ProblemError, retry_after
from sponge_server.results import ExpiredError, FailedError, RejectedError, RequestError, ShedError
from sponge_server.workers.interface import Item, ItemError

__all__ = ["problem_of", "refusal", "rows_in", "too_large", "with_parameters"]


def refusal(scheduler: Scheduler, due: Due, now: float) -> ShedError | None:
    """Why a request would miss its deadline even if its body were here at `now`; None when it would not."""
    left_s = due.deadline - now
    # The body may state another time limit: then only a deadline that has passed is final.
    least_s = scheduler.least_s() if due.settled else 0.0
    if left_s <= least_s:
        return ShedError.hopeless(due.limit_s, left_s, scheduler.backlog_s())
    if not due.settled:
        return None
    rows, ahead_s = scheduler.ahead(due.deadline)
    if left_s <= least_s + ahead_s:
        return ShedError.behind(due.limit_s, left_s, least_s, rows, ahead_s)
    return None


def rows_in(request: InferRequest, model: ModelHandle) -> list[Item]:
    """The rows of a request. Raises ProblemError 422 where they do not fit the model."""
    try:
        return rows_of(request, model.info, model.bounds.rows)
    except ItemError as error:
        raise ProblemError(422, "does-not-fit-model", str(error)) from None


def too_large(given: str, most: int) -> ProblemError:
    """The refusal of a body. `given`: its size in words; `most`: bytes that are accepted."""
    return ProblemError(413, "too-large", f"the body has {given}, at most {most} are accepted for this model")


def with_parameters(due: Due, request: InferRequest, model: ModelHandle) -> Due:
    """The deadline with what the body's parameters say about it and the accuracy. Raises ProblemError 400."""
    try:
        if request.timeout_us is not None:
            due = due.with_body_timeout(request.timeout_us, model.policy.claims)
    except BadHeaderError as error:
        raise ProblemError(400, "invalid-timeout", str(error)) from None
    try:
        return due if request.accuracy_floor is None else due.with_body_floor(request.accuracy_floor, model.policy)
    except BadHeaderError as error:
        raise ProblemError(400, "invalid-request", str(error)) from None


def problem_of(error: RequestError) -> ProblemError:
    """What the client is told of the end of a request."""
    match error:
        case ShedError():
            elsewhere = (ELSEWHERE,) if error.elsewhere else ()
            return ProblemError(503, "shed", str(error), (*retry_after(error.retry_s), *elsewhere))
        case ExpiredError():
            return ProblemError(504, "expired", str(error))
        case RejectedError():
            return ProblemError(422, "rejected-by-model", str(error))
        case FailedError():
            return ProblemError(500, "failed", str(error))
        case _:
            return ProblemError(499, "cancelled", str(error))
