"""Load shedding: which requests are shed under overload, and which are not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Limits
from sponge_core.dispatch.load_shedding import Demand
from sponge_core.dispatch.moldable_edf import plan_step
from sponge_core.dispatch.step import fastest_s
from sponge_core.latency import LatencyModel

# 20 ms an item and 40 ms fixed on one thread: alone 60 ms, eight in 200 ms, so 25 ms each.
MODEL = LatencyModel(gamma=0.016, delta=0.004, epsilon=0.03, eta=0.01)
ONE = Limits(batch_cap=8, lanes=1, max_cores=1.0)


def given_up(
    deadlines: list[float], slos: list[float], rate: float, limits: Limits = ONE, cores: float = 1.0
) -> list[int]:
    demand = Demand([slos], [rate])
    step = plan_step(0.0, [deadlines], (), cores, [MODEL], limits, [fastest_s(MODEL, limits.max_cores)], demand)
    return [index for _, index in step.sacrificed]


def test_a_stale_head_makes_room_for_a_full_batch() -> None:
    # 70 ms left of 500: it forces a batch of one, 60 ms for one answer, where the others cost 25 ms each.
    deadlines, slos = [0.07, *[0.4] * 8], [0.5] * 9
    assert given_up(deadlines, slos, rate=60.0) == [0]


def test_nobody_is_lightly_given_up_for_those_who_came_with_far_more_time() -> None:
    # Alone it takes 60 ms, in a batch of five 28 ms, where a full one takes 25.
    alone, with_four = [0.07, *[0.4] * 8], [0.145, *[0.4] * 8]
    akin, far_looser = [0.4, *[0.7] * 8], [0.4, *[0.9] * 8]
    assert given_up(alone, akin, rate=60.0) == given_up(with_four, akin, rate=60.0) == [0]
    assert given_up(alone, far_looser, rate=60.0) == [0]
    assert given_up(with_four, far_looser, rate=60.0) == []


def test_below_saturation_everybody_is_served() -> None:
    deadlines, slos = [0.07, *[0.4] * 8], [0.5] * 9
    assert given_up(deadlines, slos, rate=30.0) == []


def test_servers_that_share_a_queue_share_its_load() -> None:
    deadlines, slos = [0.07, *[0.4] * 8], [0.5] * 9
    for rate in (60.0, 90.0):
        assert given_up(deadlines, slos, rate, replace(ONE, servers=3)) == []
    assert given_up(deadlines, slos, 150.0, replace(ONE, servers=3)) == [0]


def test_a_second_that_was_busy_by_chance_is_no_overload() -> None:
    # Full batches of 25 ms a request: 40/s at the capacity, and by chance 44 in one second of twenty-two.
    deadlines, slos = [0.07, *[0.4] * 8], [0.5] * 9
    assert given_up(deadlines, slos, rate=42.0) == []
    assert given_up(deadlines, slos, rate=50.0) == [0]


def test_a_plan_that_may_still_grow_is_waited_for() -> None:
    deadlines, slos = [0.07, *[0.4] * 8], [0.5] * 9
    assert given_up(deadlines, slos, rate=60.0, limits=Limits(8, 4, 4.0)) == []


def given_way(deadlines: list[float], slos: list[float], rate: float, max_cores: float = 1.0) -> list[int]:
    """What is sacrificed while the only thread is busy."""
    busy = [Running(1, 0.05, 1.0)]
    limits = Limits(4, 1, max_cores)
    demand = Demand([slos], [rate])
    step = plan_step(0.0, [deadlines], busy, 1.0, [MODEL], limits, [fastest_s(MODEL, limits.max_cores)], demand)
    assert step.launches == []
    return [index for _, index in step.sacrificed]


def test_one_that_waited_itself_ahead_of_a_tighter_class_gives_way() -> None:
    # The second and the third came with a second and have no more left than the tight ones had on arrival.
    deadlines, slos = [0.2, 0.22, 0.25, 0.28, 0.29, 0.5, 0.6], [0.3, 1.0, 1.0, 0.3, 0.3, 1.0, 1.0]
    assert given_way(deadlines, slos, rate=90.0) == [1, 2]


def test_nobody_gives_way_where_all_can_be_served_or_the_plan_may_grow() -> None:
    deadlines, slos = [0.2, 0.22, 0.25, 0.28, 0.29, 0.5, 0.6], [0.3, 1.0, 1.0, 0.3, 0.3, 1.0, 1.0]
    assert given_way(deadlines, slos, rate=5.0) == []
    assert given_way(deadlines, slos, rate=90.0, max_cores=2.0) == []


def test_a_batch_is_left_of_those_who_might_give_way() -> None:
    assert given_way([0.2, 0.22, 0.25, 0.28, 0.29], [0.3, 1.0, 1.0, 1.0, 1.0], rate=90.0) == [1]


def test_classes_that_are_nearly_alike_do_not_give_way_to_each_other() -> None:
    assert given_way([0.2, 0.22, 0.25, 0.28, 0.29, 0.5, 0.6], [0.3, 0.5, 0.5, 0.3, 0.3, 0.5, 0.5], rate=90.0) == []


def batches_at_one_and_a_half(left_s: float, rate: float) -> list[tuple[int, int]]:
    """(rows, threads) of what starts when sixteen with so much time left wait."""
    demand = Demand([[0.5] * 16], [rate])
    limits = Limits(8, 4, 1.5)
    step = plan_step(0.0, [[left_s] * 16], (), 1.5, [MODEL], limits, [fastest_s(MODEL, 1.5)], demand)
    assert step.sacrificed == []
    return [(launch.batch, launch.threads) for launch in step.launches]


def test_under_overload_a_batch_leaves_room_for_another_on_the_shared_thread() -> None:
    # Alone, eight end within 200 ms; beside another batch at three quarters of the speed, six do.
    assert batches_at_one_and_a_half(0.26, rate=10.0) == [(8, 1)]
    assert batches_at_one_and_a_half(0.26, rate=90.0) == [(6, 1), (6, 1)]


def test_a_tight_class_is_measured_by_its_own_slo() -> None:
    # A fresh request of 70 ms has lost nothing yet, though it costs more than twice what the loose ones cost.
    deadlines, slos = [0.07, *[0.4] * 8], [0.07, *[0.5] * 8]
    assert given_up(deadlines, slos, rate=60.0) == []


def test_nobody_is_given_up_for_nobody() -> None:
    assert given_up([0.07], [0.5], rate=1000.0) == []
    assert given_up([0.07, 0.08], [0.5, 0.5], rate=1000.0) == [], "the second is as stale as the first"


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.01, 1.0)), min_size=1, max_size=30),
    st.floats(0, 500),
    st.integers(1, 4),
    st.lists(st.builds(Running, threads=st.just(1), left_s=st.floats(0, 0.5), deadline=st.just(2.0)), max_size=3),
)
def test_who_has_the_most_time_is_never_given_up(
    rows: list[tuple[float, float]], rate: float, cores: int, running: list[Running]
) -> None:
    rows = sorted(rows)
    deadlines = [deadline for deadline, _ in rows]
    demand = Demand([[max(slo, deadline) for deadline, slo in rows]], [rate])
    limits = Limits(8, cores, float(cores))
    fastest = [fastest_s(MODEL, limits.max_cores)]
    step = plan_step(0.0, [deadlines], running, float(cores), [MODEL], limits, fastest, demand)
    assert (0, len(rows) - 1) not in step.sacrificed
    launched = {i for launch in step.launches for i in range(launch.first, launch.first + launch.batch)}
    lost = set(range(step.lost[0]))
    assert not launched & lost
    assert not {index for _, index in step.sacrificed} & (launched | lost)
