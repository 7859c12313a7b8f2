"""What a container may have, by every refusal; and that asking again always ends at the largest allowed size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sponge_core.control_api import SizeRange
from sponge_core.planning.decider import Recommendation
from sponge_core.quantities import cpu_quantity
from sponge_operator.autoscale import quota_state, resize
from sponge_operator.autoscale.ceiling import Bound, Refusal, Wait, from_api, may_have
from sponge_operator.autoscale.pace import possible
from sponge_operator.autoscale.recommender import sizes_within

FORBIDDEN = 'pods "digits-1" is forbidden: '
ALLOCATABLE = FORBIDDEN + "node didn't have enough allocatable resources: "
QUOTA = FORBIDDEN + "exceeded quota: team, requested: {}, used: {}, limited: {}"
MAX = FORBIDDEN + "maximum cpu usage per Container is 500m, but limit is 3"
MIN = FORBIDDEN + "minimum cpu usage per Container is 500m, but request is 250m"
RBAC = (
    FORBIDDEN
    + 'User "system:serviceaccount:a:b" cannot patch resource "pods/resize" in API group "" in the namespace "a"'
)
WEBHOOK = 'admission webhook "cap.example.com" denied the request: too much'
POLICY = "ValidatingAdmissionPolicy 'cap' with binding 'all' denied request: failed expression: object.spec"


def answer(message: str, status: int = 403, asked: int = 3000, has: int = 1000, cause: str = "") -> Bound | Wait:
    details = {"name": "digits-1", "kind": "pods", "causes": [{"reason": cause}] if cause else None}
    return may_have(from_api(status, {"message": message, "details": details}, asked, has, node="n1"))


@pytest.mark.parametrize(
    ("message", "cause", "reason", "figure"),
    [
        (ALLOCATABLE + "cpu, requested: 3000, allocatable: 2000", "NodeCapacity", "NodeCapacity", 2000),
        # The pod's other containers hold 300m.
        (ALLOCATABLE + "cpu, requested: 3300, allocatable: 2000", "NodeCapacity", "NodeCapacity", 1700),
        (
            ALLOCATABLE + "cpu, requested: 3300, allocatable: 2000; memory, requested: 9, allocatable: 8",
            *("NodeCapacity", "NodeCapacity", 1700),
        ),
        (ALLOCATABLE + "cpu, requested: 3300m, allocatable: 2", "NodeCapacity", "NodeCapacity", 1700),
        (ALLOCATABLE + "cpu, requested: 4, allocatable: 3", "NodeCapacity", "NodeCapacity", 2000),
        # Below what the pod has: the present size stays possible.
        (ALLOCATABLE + "cpu, requested: 3000, allocatable: 600", "NodeCapacity", "NodeCapacity", 1000),
        # Contradictions and silence: no figure.
        (ALLOCATABLE + "cpu, requested: 3000, allocatable: 4000", "NodeCapacity", "NodeCapacity", None),
        (ALLOCATABLE + "memory, requested: 9, allocatable: 8", "NodeCapacity", "NodeCapacity", None),
        (QUOTA.format("limits.cpu=2", "limits.cpu=1", "limits.cpu=1500m"), "", "QuotaExceeded", 1500),
        (QUOTA.format("requests.cpu=2", "requests.cpu=1100m", "requests.cpu=2"), "", "QuotaExceeded", 1900),
        (QUOTA.format("cpu=2,memory=1Gi", "cpu=1,memory=1Gi", "cpu=2,memory=1Gi"), "", "QuotaExceeded", 2000),
        # Several resources: the one that binds.
        (
            QUOTA.format(
                "limits.cpu=2,requests.cpu=2", "limits.cpu=1,requests.cpu=1", "limits.cpu=2500m,requests.cpu=1200m"
            ),
            *("", "QuotaExceeded", 1200),
        ),
        (QUOTA.format("limits.cpu=lots", "limits.cpu=1", "limits.cpu=2"), "", "QuotaExceeded", None),
        (MAX, "", "LimitRange", 1000),
        (MAX.replace("500m", "1500m"), "", "LimitRange", 1500),
        (FORBIDDEN + "maximum cpu usage per Pod is 2, but limit is 3200m", "", "LimitRange", 1800),
        (
            FORBIDDEN + "[maximum cpu usage per Container is 2, but limit is 3, maximum cpu usage per Pod is 2, but "
            "limit is 3200m]",
            *("", "LimitRange", 1800),
        ),
        (WEBHOOK, "", "AdmissionDenied", None),
        (POLICY, "", "AdmissionDenied", None),
    ],
)
def test_a_size_that_another_size_avoids(message: str, cause: str, reason: str, figure: int | None) -> None:
    bound = answer(message, cause=cause)
    assert isinstance(bound, Bound)
    assert (bound.reason, bound.figure_milli, bound.refused_milli, bound.below) == (reason, figure, 3000, True)
    assert message in bound.message


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (QUOTA.format("cpu=2", "cpu=1", "cpu=2"), "ResourceQuota team allows 2 cores"),
        (MAX.replace("500m", "1500m"), "a LimitRange of the namespace allows 1.5 cores"),
        (WEBHOOK, "admission webhook cap.example.com refuses it"),
        (POLICY, "ValidatingAdmissionPolicy cap refuses it"),
        (RBAC, "the operator lacks this right; grant it, or install the Helm chart again"),
    ],
)
def test_the_message_names_the_object_that_bounds_the_size(message: str, named: str) -> None:
    assert answer(message).message.startswith(named)


def test_the_message_names_the_node() -> None:
    bound = answer(ALLOCATABLE + "cpu, requested: 3000, allocatable: 2000", cause="NodeCapacity")
    assert bound.message.startswith("node n1 has room for 2 cores of this container: ")


@pytest.mark.parametrize(
    ("message", "figure"),
    [
        (MIN, 500),
        (FORBIDDEN + "minimum cpu usage per Pod is 1, but request is 450m", 800),
        (FORBIDDEN + "cpu max limit to request ratio per Pod is 2, but provided ratio is 2.500000", None),
        (WEBHOOK, None),
    ],
)
def test_a_shrink_that_is_refused_sets_a_floor(message: str, figure: int | None) -> None:
    bound = answer(message, asked=250, has=1000)
    assert isinstance(bound, Bound)
    assert (bound.figure_milli, bound.refused_milli, bound.below) == (figure, 250, False)


def test_a_shrink_to_a_size_that_is_still_too_large_sets_a_ceiling_below_the_present_size() -> None:
    bound = answer(FORBIDDEN + "maximum cpu usage per Container is 500m, but limit is 750m", asked=750, has=1000)
    assert isinstance(bound, Bound)
    assert (bound.figure_milli, bound.below) == (500, True)


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (0, "the API server does not answer", "ApiServerBusy"),
        (409, "the object has been modified", "ApiServerBusy"),
        (429, "too many requests", "ApiServerBusy"),
        (500, 'failed calling webhook "x": connection refused', "ApiServerBusy"),
        (503, "", "ApiServerBusy"),
        (403, FORBIDDEN + "not yet ready to handle request", "ApiServerBusy"),
        (404, "the server could not find the requested resource", "NoResizeApi"),
        (403, RBAC, "Forbidden"),
        (403, FORBIDDEN + "maximum cpu usage per Container is 500m, but limit is 4", "LimitRange"),  # another one's
        (403, FORBIDDEN + "maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRange"),
        (403, QUOTA.format("memory=2Gi", "memory=1Gi", "memory=2Gi"), "QuotaExceeded"),
        (403, FORBIDDEN + "somebody says no", "Rejected"),
        (422, "Pod QOS Class may not change as a result of resizing", "Rejected"),
    ],
)
def test_a_refusal_that_no_other_size_avoids(status: int, message: str, reason: str) -> None:
    wait = answer(message, status)
    assert isinstance(wait, Wait)
    assert wait.reason == reason
    assert message in wait.message


def test_retry_after_is_taken_from_the_header_or_from_the_body() -> None:
    body: dict[str, Any] = {"message": "slow down", "details": {"retryAfterSeconds": 7}}
    for header, expected in ((None, 7), (3.0, 3.0)):
        wait = may_have(from_api(429, body, 3000, 1000, retry_after_s=header))
        assert isinstance(wait, Wait)
        assert wait.retry_after_s == expected


# --- searching -------------------------------------------------------------------------------------------------------

SIZES = SizeRange(min_milli=250, max_milli=16_000, step_milli=125)


@dataclass
class Cluster:
    """Objects that refuse sizes, some with figures; `asked` has every request since the last `lift`."""

    node: int
    quota: int
    webhook: int
    least: int
    others: int
    has: int
    asked: list[int] = field(default_factory=list)

    @property
    def most(self) -> int:
        return max(min(self.node - self.others, self.quota, self.webhook), self.has)

    def refusal(self, milli: int) -> Refusal | None:
        def by_api(message: str) -> Refusal:
            return Refusal(milli, self.has, message, status=403)

        self.asked.append(milli)
        if milli > self.has and milli > self.webhook:
            return by_api(WEBHOOK)
        if milli > self.has and milli > self.quota:
            pairs = [f"limits.cpu={cpu_quantity(amount)}" for amount in (milli - self.has, self.has, self.quota)]
            return by_api(QUOTA.format(*pairs))
        if milli < self.least:
            return by_api(f"minimum cpu usage per Container is {self.least}m, but request is {cpu_quantity(milli)}")
        if milli > self.has and milli + self.others > self.node:
            text = (
                f"cpu, requested: {milli + self.others}, used: {self.node // 2}, capacity: {self.node + self.node // 2}"
            )
            return Refusal(milli, self.has, f"Node didn't have enough resource: {text}", "Deferred")
        return None


def next_size(wanted: int, has: int, history: resize.History, now: float) -> int:
    """What the control loop would ask for."""
    floor = history.floor_milli(now, has, SIZES.step_milli)
    ceiling = history.ceiling_milli(now, has, SIZES.step_milli)
    sizes = sizes_within(SIZES, floor, None if ceiling is None else max(ceiling, has))
    return possible(Recommendation(wanted, 8, True, "grow"), has, sizes, floor, ceiling).cores_milli


SOME = (*range(50, 250, 50), *range(250, 16_001, 125))
"""The sizes of the range, and those below it for where none of them is allowed."""

grid = st.integers(0, 126).map(lambda n: 250 + 125 * n)
CLUSTERS = st.builds(
    Cluster,
    node=st.integers(200, 20_000),
    quota=st.integers(200, 20_000),
    webhook=st.integers(200, 20_000),
    least=st.integers(1, 3000),
    others=st.integers(0, 3000),
    has=st.one_of(grid, st.integers(10, 249)),
)


@example(cluster=Cluster(node=625, quota=625, webhook=625, least=501, others=0, has=250), wanted=750)
@given(cluster=CLUSTERS, wanted=grid)
def test_the_search_never_repeats_a_refused_size_and_ends_at_the_best_allowed_one(
    cluster: Cluster, wanted: int
) -> None:
    history, refused, start = resize.History(), set[int](), cluster.has
    for _ in range(40):
        size = next_size(wanted, cluster.has, history, 0.5)
        action = resize.step(quota_state.Idle(cluster.has), size, history, 0.5)
        if not isinstance(action, resize.Patch):
            break
        assert size not in refused
        refusal = cluster.refusal(size)
        if refusal is None:
            history = resize.actuated(history, cluster.has, size, 0.5, 0.05)
            cluster.has = size
        else:
            refused.add(size)
            history = resize.refuse(history, may_have(refusal), 0.0)
    else:
        pytest.fail(f"no end after {cluster.asked}")
    if wanted > start:
        allowed = [size for size in SOME if size <= wanted and cluster.least <= size <= cluster.most]
        # A floor above the wanted size may lift it; nothing else may.
        lifted = start < wanted < cluster.least
        # Between a floor above a size below the range and a ceiling without a figure, it is not searched for.
        lost = start < min(250, cluster.least)
        assert cluster.has == max([start, *allowed]) or lifted or lost
    elif wanted < cluster.least:
        assert cluster.has == start or cluster.has - 125 < max(cluster.least, wanted) <= cluster.has
    else:
        assert cluster.has == wanted
    assert len(cluster.asked) <= 24


@given(cluster=CLUSTERS, wanted=grid)
def test_once_the_cause_is_gone_the_wanted_size_is_reached_by_one_request(cluster: Cluster, wanted: int) -> None:
    history = resize.History()
    refusal = cluster.refusal(wanted)
    if refusal is None:
        return
    history = resize.refuse(history, may_have(refusal), 0.0)
    later = max(held.until for held in (history.ceiling, history.floor) if held is not None)
    assert later <= 15.0
    assert next_size(wanted, cluster.has, history, later) == wanted
    after = resize.actuated(history, cluster.has, wanted, later, 0.05)
    assert (after.ceiling, after.floor, after.blocked) == (None, None, None)
