"""From what the servers of a service say to the number of its pods; the rule is the core's `ReplicaDecider`.

This module adds up what the pods report, and knows which of them serve, start or are lost. Pure, apart from what it
remembers of the pods; the clock is passed in.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sponge_core.planning.replicas import ReplicaDecider, ReplicaLimits, ReplicaState, Trend
from sponge_operator.autoscale.pod_state import PodState
from sponge_operator.resources.model import ServiceSpec, SpongeService

__all__ = ["ColdStart", "PodView", "ReplicaScaler", "Scaling", "view_of"]

ASSUMED_COLD_START_S = 20.0
"""Until a pod has been seen to start."""

LEAST_COLD_START_S = 2.0
"""Timestamps of Kubernetes are whole seconds."""

STARTS_KEPT = 5

LOST_AFTER = 6.0
"""A pod that runs and does not serve after so many cold starts is lost, not starting."""

LEAST_LOST_S = 120.0

CEILING_S = 300.0
"""How long a size is taken for the largest that a pod can have, after it was last known to be. While the load is low,
nobody asks for more, and the node may be as full as before."""

LONGEST_STEP_S = 3.0
"""The load counts for no longer than this since the last look, whatever held the looks up."""

HORIZON_S = 1.0
"""How far ahead the servers forecast arrivals."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod that is not on its way out.

    Attributes:
        created_s: epoch seconds.
        ready_s: epoch seconds since when it is in service, if it is and was never restarted; else None.
        is_pending: no node has taken it, or its containers are being made.
    """

    uid: str
    state: PodState
    created_s: float
    ready_s: float | None = None
    is_pending: bool = False


@dataclass(frozen=True, slots=True)
class Scaling:
    """The pods of a service at one look, and the number that it should have.

    Attributes:
        asked: the number that is requested now.
        wanted: the number that it should have; differs from `asked` until it is requested, or where nothing is changed.
        serving, starting, lost: what has become of those that are requested.
        load_cores: what the load takes; None: not known.
        has_cores: the largest sizes of all pods together.
        stale: names of the pods in service whose servers do not answer; while there are some, nothing is decided.
    """

    asked: int
    wanted: int
    reason: str
    serving: int
    starting: int
    lost: int
    cold_start_s: float
    load_cores: float | None = None
    has_cores: float = 0.0
    stale: tuple[str, ...] = ()


def view_of(pod: Mapping[str, Any], state: PodState) -> PodView:
    """The view of a pod as the API server sends it."""
    status = pod.get("status") or {}
    ready = [c for c in status.get("conditions") or () if c["type"] == "Ready" and c["status"] == "True"]
    restarts = sum(container.get("restartCount") or 0 for container in status.get("containerStatuses") or ())
    ready_s = _epoch_s(ready[0].get("lastTransitionTime")) if ready and not restarts else None
    created_s = _epoch_s(pod["metadata"].get("creationTimestamp"))
    return PodView(
        pod["metadata"]["uid"],
        state,
        created_s or 0.0,
        None if created_s is None else ready_s,
        status.get("phase") == "Pending",
    )


def _epoch_s(time: str | None) -> float | None:
    return None if time is None else datetime.fromisoformat(time).timestamp()


class ColdStart:
    """How long pods of a service take from their creation until they serve.

    Args:
        known_s: of an earlier operator; None if nothing is known.
    """

    def __init__(self, known_s: float | None = None) -> None:
        self._known_s = known_s
        self._counted: set[str] = set()
        self._took: deque[float] = deque(maxlen=STARTS_KEPT)

    def observe(self, pods: Sequence[PodView]) -> None:
        """Takes over the starts that have ended; each of the present pods counts once."""
        ended = {pod.uid: pod.ready_s - pod.created_s for pod in pods if pod.ready_s is not None}
        self._took.extend(took_s for uid, took_s in ended.items() if uid not in self._counted)
        self._counted = {pod.uid for pod in pods} & (self._counted | ended.keys())

    @property
    def seconds(self) -> float:
        """The median of the newest starts."""
        if not self._took:
            return self._known_s or ASSUMED_COLD_START_S
        return max(LEAST_COLD_START_S, statistics.median(self._took))


class ReplicaScaler:
    """The number of pods of one service.

    Args:
        cold_start_s: of an earlier operator; None if nothing is known.
    """

    def __init__(self, cold_start_s: float | None = None) -> None:
        self._decider = ReplicaDecider()
        self._trend = Trend()
        self._cold_start = ColdStart(cold_start_s)
        self._looked_at: float | None = None
        self._most: dict[str, tuple[int, float]] = {}  # by uid: the largest possible size, and when it was last known

    def look(self, now: float, wall: float, service: SpongeService, asked: int, pods: Sequence[PodView]) -> Scaling:
        """The pods now, and the number that they should be.

        Args:
            now: monotonic seconds.
            wall: epoch seconds.
            asked: the number that counts as requested.
            pods: those that are not on their way out.
        """
        spec = service.spec
        self._remember(now, pods)
        cold_start_s = self._cold_start.seconds
        serving = [pod for pod in pods if pod.state.in_service]
        lost = [pod for pod in pods if _is_lost(pod, wall, cold_start_s)]
        starting = max(0, asked - len(serving) - len(lost))
        seen = Scaling(asked, asked, "hold", len(serving), starting, len(lost), cold_start_s)
        elapsed_s = 0.0 if self._looked_at is None else min(LONGEST_STEP_S, now - self._looked_at)
        self._looked_at = now
        least = spec.replicas.at_first if service.is_awake(wall) else spec.replicas.min
        if asked < least:
            return replace(seen, wanted=least, reason="woken" if asked >= spec.replicas.min else "range")
        stale = tuple(pod.state.name for pod in serving if _load_of(pod.state) is None)
        if stale or not serving:
            return replace(seen, stale=stale)
        limits = ReplicaLimits(
            least,
            spec.replicas.max,
            spec.cpu.min / 1000,
            spec.cpu.max / 1000,
            cold_start_s,
            spec.idle.remove_after,
        )
        state = self._state(now, spec, seen, serving)
        decision = self._decider.decide(now, elapsed_s, state, limits)
        return replace(
            seen,
            wanted=decision.replicas,
            reason=decision.reason,
            load_cores=state.load_cores,
            has_cores=max(0.0, asked * limits.max_cores - sum(state.short_cores)),
        )

    def _state(self, now: float, spec: ServiceSpec, seen: Scaling, serving: Sequence[PodView]) -> ReplicaState:
        """What the servers report, added up."""
        load = sum(_load_of(pod.state) or 0.0 for pod in serving)
        # A rollout has further pods for a while; that those do not start says nothing of the number.
        lost = min(seen.lost, max(0, seen.asked - seen.serving))
        return ReplicaState(
            seen.asked,
            load_cores=load,
            steady_cores=load,
            ahead_cores=self._trend.ahead(now, load, seen.cold_start_s),
            missed_cores=sum(_missed_cores(pod.state, spec) for pod in serving),
            short_cores=[*(self.short_cores(pod, spec) for pod in serving), *[spec.cpu.max / 1000] * lost],
            starting=seen.starting,
            idle_s=min(pod.state.snapshot.idle_for_s for pod in serving if pod.state.snapshot is not None),
        )

    def short_cores(self, pod: PodView, spec: ServiceSpec) -> float:
        """How many of `cpu.max` a pod cannot have, as far as is known."""
        known = self._most.get(pod.uid)
        return 0.0 if known is None else max(0, spec.cpu.max - known[0]) / 1000

    def leaving(self, pods: Sequence[PodView], spec: ServiceSpec) -> PodView | None:
        """The pod that costs least to lose; None where Kubernetes finds it by itself, because one does not serve.

        That is one whose node is full, then one of several on a node, then the newest.
        """
        if not pods or not all(pod.state.in_service for pod in pods):
            return None
        on_node = Counter(pod.state.node for pod in pods)
        return max(pods, key=lambda pod: (self.short_cores(pod, spec), on_node[pod.state.node], pod.created_s))

    def _remember(self, now: float, pods: Sequence[PodView]) -> None:
        self._cold_start.observe(pods)
        known = {pod.uid: self._most[pod.uid] for pod in pods if pod.uid in self._most}
        for pod in pods:
            if pod.state.most_milli is not None:
                known[pod.uid] = pod.state.most_milli, now
            elif pod.uid in known:
                most, at = known[pod.uid]
                if (pod.state.actuated_milli or 0) > most or now - at > CEILING_S:
                    del known[pod.uid]
        self._most = known


def _is_lost(pod: PodView, wall: float, cold_start_s: float) -> bool:
    """Whether a pod served before and does not now, or takes far too long to start."""
    if pod.state.in_service or pod.is_pending:
        return False
    is_overdue = wall - pod.created_s > max(LEAST_LOST_S, LOST_AFTER * cold_start_s)
    return pod.state.snapshot is not None or is_overdue


def _load_of(state: PodState) -> float | None:
    """The cores that the load of a server takes; None if it is not known now."""
    return state.snapshot.load_cores if state.reachable and state.snapshot is not None else None


def _missed_cores(state: PodState, spec: ServiceSpec) -> float:
    """The part of a server's load that misses at the largest size that the pod can have, beyond what the SLO allows."""
    snapshot = state.snapshot
    if snapshot is None or not snapshot.load_cores:
        return 0.0
    misses = snapshot.refused_rps * HORIZON_S
    requests = misses + snapshot.queue_length + snapshot.arrival_rate_rps * HORIZON_S
    if snapshot.frontier:
        most = spec.cpu.max if state.most_milli is None else state.most_milli
        points = [point for point in snapshot.frontier if point.cores_milli <= most] or snapshot.frontier[:1]
        misses += points[-1].misses
    share = min(1.0, misses / requests) if requests else 0.0
    return snapshot.load_cores * share if share > 1 - spec.slo.target / 100 else 0.0
