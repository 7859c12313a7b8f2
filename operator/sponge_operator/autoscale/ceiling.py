"""What a container may have: `may_have` reads it from any refusal of a CPU size. Pure.

A node, a ResourceQuota, a LimitRange, an admission webhook and the API server itself all refuse in words of their own.
Two answers cover them: a `Bound` where another size is possible, and a `Wait` where none is. The figures in a refusal
are of the whole pod, so a bound is what was asked for less what was too much; the other containers keep their part.

The messages are those of Kubernetes 1.33 to 1.36 (pkg/kubelet/lifecycle/predicate.go, the admission plugins podresize,
resourcequota and limitranger).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sponge_core.errors import SpongeError
from sponge_core.quantities import cores_text, parse_cpu_milli

__all__ = ["BUSY", "FULL_NODE", "NO_RESIZE_API", "POLICY", "Bound", "Hold", "Refusal", "Wait", "from_api", "may_have"]

By = Literal["Deferred", "Infeasible", "Error", "ApiServer"]


@dataclass(frozen=True, slots=True)
class Hold:
    """How long something holds: `first_s`, doubled each time it is met again, up to `most_s`."""

    first_s: float
    most_s: float

    def seconds(self, again: int) -> float:
        """The time for the `again`-th repetition; 0 is the first time."""
        return min(self.most_s, self.first_s * 2.0 ** min(again, 32))


FULL_NODE = Hold(10.0, 15.0)
"""The kubelet refuses by a status that must be taken back: two writes and an event each time."""

SMALL_NODE = Hold(60.0, 600.0)
"""Likewise, and only another node changes it."""

POLICY = Hold(2.0, 10.0)
"""A refusal by the API server writes nothing, so it is asked again soon whether its cause is gone."""

BUSY = Hold(0.1, 5.0)
"""The API server restarts, is overloaded or does not answer."""

DENIED = Hold(10.0, 60.0)
"""Only a person changes this: a missing right, a patch that is never valid."""

NO_API = Hold(30.0, 300.0)

NO_RESIZE_API = "the API server has no subresource pods/resize; upgrade the cluster to Kubernetes 1.33 or later"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A size that was refused, by the kubelet in the pod's status or by the API server in its response.

    Attributes:
        has_milli: the size in force, which is always possible.
        message: as received.
        by: the kubelet's reason, or the API server.
        status: HTTP status of the response; 0 for no response.
        cause: machine-readable, from the response's Status object.
        retry_after_s: from the response.
        node: name of the pod's node, for the message.
    """

    asked_milli: int
    has_milli: int
    message: str
    by: By = "ApiServer"
    status: int = 0
    cause: str = ""
    retry_after_s: float | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """Some sizes are possible, and others are not asked for while it holds.

    Attributes:
        reason: machine-readable.
        message: for people; names the object that bounds the size.
        refused_milli: the size that was refused.
        figure_milli: the last possible size by the message; None: it gave none, or one that was refused again.
        below: the sizes below the figure are possible; False: those above it.
    """

    reason: str
    message: str
    refused_milli: int
    hold: Hold
    figure_milli: int | None = None
    below: bool = True

    def limit(self, has_milli: int, step_milli: int) -> int:
        """The last size that may be asked for.

        Without a figure it lies halfway between the size in force and the refused one, so that the last allowed size is
        found in few steps.
        """
        if self.figure_milli is not None:
            return self.figure_milli
        away = self.refused_milli - has_milli if self.below else has_milli - self.refused_milli
        if away <= 0:
            return has_milli
        stride = min(away - 1, max(step_milli, away // 2))
        return has_milli + stride if self.below else has_milli - stride


@dataclass(frozen=True, slots=True)
class Wait:
    """No size is possible for now; nothing is sent for a while.

    Attributes:
        reason: machine-readable.
        message: for people; names what to do.
        retry_after_s: what the API server asks for; None: `hold` decides.
    """

    reason: str
    message: str
    hold: Hold
    retry_after_s: float | None = None


def from_api(
    status: int,
    body: Mapping[str, Any],
    asked_milli: int,
    has_milli: int,
    *,
    retry_after_s: float | None = None,
    node: str = "",
) -> Refusal:
    """The refusal in a response of the API server; see `Refusal` for the arguments.

    Args:
        body: the Status object.
    """
    details = body.get("details") or {}
    causes = (str(cause.get("reason") or "") for cause in details.get("causes") or ())
    return Refusal(
        asked_milli,
        has_milli,
        str(body.get("message") or ""),
        status=status,
        cause=next(filter(None, causes), ""),
        retry_after_s=retry_after_s if retry_after_s is not None else details.get("retryAfterSeconds"),
        node=node,
    )


def may_have(refusal: Refusal) -> Bound | Wait:
    """What the container may have after this refusal."""
    match refusal.by:
        case "ApiServer":
            return _by_the_api_server(refusal)
        case "Deferred":
            figure = _node_figure(refusal)
            if figure is None:
                return _pinned("Deferred", FULL_NODE, refusal, f"{_node(refusal)} has no room now")
            return _bound("Deferred", FULL_NODE, refusal, figure, f"{_node(refusal)} has {_room(figure)} now")
        case "Infeasible":
            figure = _node_figure(refusal)
            if figure is None:
                # A static CPU or memory manager pins what the container has.
                return _pinned("Infeasible", SMALL_NODE, refusal, f"{_node(refusal)} cannot resize")
            return _bound("Infeasible", SMALL_NODE, refusal, figure, f"{_node(refusal)} has {_room(figure)}")
        case "Error":
            return _pinned("ResizeError", FULL_NODE, refusal, f"{_node(refusal)} failed to resize")


# --- the API server --------------------------------------------------------------------------------------------------

_BUSY = re.compile(r"not yet ready to handle request|at this time because")
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request')
_POLICY = re.compile(r"""(?:ValidatingAdmissionPolicy|policy) ['"]([^'"]+)['"].* denied request""")
_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")
_RANGE = re.compile(r"(maximum|minimum) cpu usage per (\w+) is (\S+), but (?:limit|request) is ([^\s,\]]+)")
_ANY_RANGE = re.compile(r"(?:usage|limit to request ratio) per (?:Container|Pod) is ")
_CPU_RATIO = re.compile(r"cpu max limit to request ratio per \w+ is \S+, but provided")
_RIGHT = re.compile(r"cannot \w+ resource")


def _by_the_api_server(refusal: Refusal) -> Bound | Wait:
    status, message = refusal.status, refusal.message
    if status in (0, 401, 409, 429) or status >= 500 or _BUSY.search(message):
        text = f"the API server cannot take the resize now, which is sent again: {message or f'HTTP {status}'}"
        return Wait("ApiServerBusy", text, BUSY, refusal.retry_after_s)
    if status == 404:
        return Wait("NoResizeApi", f"{NO_RESIZE_API}: {message}", NO_API)
    if (denied := _WEBHOOK.search(message)) is not None:
        return _guessed("AdmissionDenied", refusal, f"admission webhook {denied[1]} refuses it")
    if (denied := _POLICY.search(message)) is not None:
        return _guessed("AdmissionDenied", refusal, f"ValidatingAdmissionPolicy {denied[1]} refuses it")
    if refusal.cause == "NodeCapacity":
        figure = _node_figure(refusal)
        if figure is None:
            return _guessed("NodeCapacity", refusal, f"{_node(refusal)} is too small")
        return _bound("NodeCapacity", POLICY, refusal, figure, f"{_node(refusal)} has {_room(figure)}")
    if (quota := _QUOTA.search(message)) is not None:
        return _by_a_quota(refusal, quota)
    if _ANY_RANGE.search(message):
        return _by_a_limit_range(refusal)
    if _RIGHT.search(message):
        fix = "the operator lacks this right; grant it, or install the Helm chart again, which does"
        return Wait("Forbidden", f"{fix}: {message}", DENIED)
    return Wait("Rejected", message or f"HTTP {status}", DENIED)


def _by_a_quota(refusal: Refusal, quota: re.Match[str]) -> Bound | Wait:
    name = quota[1]
    try:
        asked, used, limited = (_amounts(text) for text in quota.groups()[1:])
        excess = [
            asked[key] + used[key] - limited[key]
            for key in ("cpu", "requests.cpu", "limits.cpu")
            if key in asked and key in used and key in limited
        ]
    except SpongeError:
        return _guessed("QuotaExceeded", refusal, f"ResourceQuota {name} refuses it")
    if not excess:
        return Wait("QuotaExceeded", f"ResourceQuota {name} allows no resize: {refusal.message}", POLICY)
    figure = refusal.asked_milli - max(excess)
    return _bound("QuotaExceeded", POLICY, refusal, figure, f"ResourceQuota {name} allows {_cores(figure)}")


def _by_a_limit_range(refusal: Refusal) -> Bound | Wait:
    where = "a LimitRange of the namespace"
    most: list[int] = []
    least: list[int] = []
    for kind, scope, allowed_text, found_text in _RANGE.findall(refusal.message):
        try:
            allowed, found = parse_cpu_milli(allowed_text), parse_cpu_milli(found_text)
        except SpongeError:
            return _guessed("LimitRange", refusal, f"{where} refuses it")
        if scope == "Container" and found != refusal.asked_milli:
            continue  # this is another container's size
        (most if kind == "maximum" else least).append(refusal.asked_milli - (found - allowed))
    if most:
        return _bound("LimitRange", POLICY, refusal, min(most), f"{where} allows {_cores(min(most))}")
    if least:
        text = f"{where} demands at least {_cores(max(least))}"
        return _bound("LimitRange", POLICY, refusal, max(least), text, below=False)
    if _CPU_RATIO.search(refusal.message):
        return _guessed("LimitRange", refusal, f"{where} refuses it")
    return Wait("LimitRange", f"{where} allows no resize: {refusal.message}", POLICY)


# --- figures and answers ---------------------------------------------------------------------------------------------

_FULL = re.compile(r"\bcpu, requested: ([\w.]+), used: ([\w.]+), capacity: ([\w.]+)")
_SMALL = re.compile(r"\bcpu, requested: ([\w.]+), (?:capacity|allocatable): ([\w.]+)")


def _node_figure(refusal: Refusal) -> int | None:
    """The largest size that the node has for the container, by the message; None if it gives no figure."""
    if (full := _FULL.search(refusal.message)) is not None:
        texts: Sequence[str] = full.groups()
    elif (small := _SMALL.search(refusal.message)) is not None:
        texts = (small[1], "0", small[2])
    else:
        return None
    try:
        requested, used, capacity = _figures(texts, refusal.asked_milli)
    except SpongeError:
        return None
    return refusal.asked_milli - (requested + used - capacity)


def _figures(texts: Sequence[str], asked_milli: int) -> list[int]:
    """Millicores of the figures of one message, which are whole millicores or quantities."""
    whole = all(text.isdigit() for text in texts)
    # A pod requests at least what the container was to have; less than that in millicores must be cores.
    if whole and int(texts[0]) >= asked_milli:
        return [int(text) for text in texts]
    return [parse_cpu_milli(text) for text in texts]


def _amounts(text: str) -> dict[str, int]:
    """Millicores by resource, of "limits.cpu=1,requests.cpu=250m"; others than CPU are left out."""
    pairs = (part.partition("=") for part in text.split(","))
    return {key: parse_cpu_milli(value) for key, _, value in pairs if key.endswith("cpu")}


def _bound(reason: str, hold: Hold, refusal: Refusal, figure_milli: int, text: str, *, below: bool = True) -> Bound:
    """A bound with a figure, unless what the message allows was refused."""
    asked, has = refusal.asked_milli, refusal.has_milli
    if figure_milli == asked or (figure_milli < asked) != below:
        return _guessed(reason, refusal, text, hold)
    # The size in force is possible, whatever the message says.
    if below and asked > has:
        figure_milli = max(figure_milli, has)
    elif not below and asked < has:
        figure_milli = min(figure_milli, has)
    return Bound(reason, f"{text}: {refusal.message}", asked, hold, figure_milli, below)


def _pinned(reason: str, hold: Hold, refusal: Refusal, text: str) -> Bound:
    """Nothing but the size in force is possible."""
    below = refusal.asked_milli > refusal.has_milli
    return _bound(reason, hold, refusal, refusal.has_milli, text, below=below)


def _guessed(reason: str, refusal: Refusal, text: str, hold: Hold = POLICY) -> Bound:
    below = refusal.asked_milli > refusal.has_milli
    return Bound(reason, f"{text}: {refusal.message}", refusal.asked_milli, hold, None, below)


def _node(refusal: Refusal) -> str:
    return f"node {refusal.node}" if refusal.node else "the node"


def _room(milli: int) -> str:
    return f"room for {_cores(milli)} of this container"


def _cores(milli: int) -> str:
    return f"{cores_text(max(0, milli))} cores"
