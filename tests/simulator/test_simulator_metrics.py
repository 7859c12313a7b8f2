"""CPU use as metrics-server reports it: between its last two readings, and late."""

from __future__ import annotations

import pytest

from sponge_core.dispatch.registry import POLICIES as DISPATCH
from sponge_core.edf_queue import Request
from sponge_core.latency import LatencyModel
from sponge_simulator.fleet import ClusterModel, simulate
from sponge_simulator.metrics import ReplicaUse, Scrapes
from sponge_simulator.scaling.interface import Observation, Service, Size

BATCH_S = 0.25
SERVICE = Service(LatencyModel(0.0, 0.0, 0.0, BATCH_S), slo_s=9.0, rate=1.0, max_batch=1, cold_start_s=2.0)


class Watcher:
    """Plans every second for one replica, and from `more_from_s` on for two; keeps the uses that it saw."""

    interval_s = 1.0
    dispatch = "moldable-edf"

    def __init__(self, more_from_s: float = 99.0) -> None:
        self._more_from_s = more_from_s
        self.uses: dict[float, tuple[ReplicaUse, ...]] = {}

    def arrived(self, now: float, request: Request) -> None:
        """Takes no notice."""

    def plan(self, seen: Observation) -> Size:
        self.uses[seen.now] = seen.uses
        return Size(1.0, 1, 2 if seen.now >= self._more_from_s else 1)


def watch(watcher: Watcher, *arrivals: float, scrapes: Scrapes | None, by_periods: bool = False) -> Watcher:
    sent = [Request(i, at, at + 9.0, at) for i, at in enumerate(arrivals)]
    world = ClusterModel(12.0, scrapes=scrapes, by_periods=by_periods)
    simulate(sent, SERVICE, watcher, DISPATCH[watcher.dispatch].make(), world)
    return watcher


@pytest.mark.parametrize("by_periods", [False, True])
def test_use_is_the_mean_between_the_last_two_readings(by_periods: bool) -> None:
    # The second batch runs from 6.4 to 6.65: the reading at 6.5 has 100 ms of it.
    seen = watch(Watcher(), 2.0, 6.4, scrapes=Scrapes(1.5, 5.0), by_periods=by_periods).uses
    assert seen[1.0] == seen[6.0] == ()
    ((first,), (second,)) = seen[7.0], seen[12.0]
    assert (first.cores, first.at, first.window_s) == (pytest.approx(0.35 / 5), 6.5, 5.0)
    assert (second.cores, second.at, second.window_s) == (pytest.approx(0.15 / 5), 11.5, 5.0)


def test_a_new_replica_is_known_from_its_second_reading_on() -> None:
    seen = watch(Watcher(more_from_s=3.0), scrapes=Scrapes(0.5, 2.0)).uses
    assert [len(seen[at]) for at in (2.0, 3.0, 4.0, 6.0, 7.0)] == [0, 1, 1, 1, 2]
    assert [use.ready_at for use in seen[7.0]] == [0.0, 5.0]


def test_without_a_metrics_server_use_is_that_since_the_last_plan() -> None:
    seen = watch(Watcher(), 2.5, scrapes=None).uses
    assert [(use.cores, use.at, use.window_s) for use in seen[3.0]] == [(pytest.approx(BATCH_S), 3.0, 1.0)]
    assert [use.cores for use in seen[4.0]] == [0.0]
