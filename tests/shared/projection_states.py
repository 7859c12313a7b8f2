"""States of a server to project from: made by hand, and a hypothesis strategy."""

from __future__ import annotations

from hypothesis import strategies as st

from sponge_core.cpu_sharing import Running
from sponge_core.dispatch.decision import Limits
from sponge_core.forecast import Arrival
from sponge_core.latency import LatencyModel
from sponge_core.planning.projection import ProjectionInput

__all__ = ["LIMITS", "MODEL", "SIZES", "state", "states"]

# 100 ms an item on one thread, of which 80 parallel; 10 ms fixed.
MODEL = LatencyModel(gamma=0.08, delta=0.02, epsilon=0.0, eta=0.01)
SIZES = [1000, 2000, 3000, 4000]
LIMITS = Limits(batch_cap=8, lanes=4, max_cores=4.0)


def state(
    queued: tuple[float, ...] = (),
    running: tuple[Running, ...] = (),
    arrivals: tuple[Arrival, ...] = (),
    cores: float = 1.0,
    resize_s: float = 0.0,
) -> ProjectionInput:
    return ProjectionInput(0.0, (queued,), running, arrivals, cores, resize_s)


@st.composite
def states(draw: st.DrawFn) -> ProjectionInput:
    queued = draw(st.lists(st.floats(0.01, 1.5), max_size=12))
    arrivals = draw(st.lists(st.tuples(st.floats(0, 1), st.floats(0.05, 1)), max_size=12))
    coming = tuple(sorted(Arrival(at, at + left) for at, left in arrivals))
    in_force = draw(st.sampled_from(SIZES))
    return state(queued=tuple(sorted(queued)), arrivals=coming, cores=in_force / 1000, resize_s=0.03)
