"""When a cheaper variant of a model may answer: only where a deadline that can be met is missed without it.

The rule replays what runs and waits with the model itself. If all of it is in time so, no variant is used. If not, it
takes the fewest variants with which fewest requests are late, and goes back as soon as it can: the next decision asks
again.

Cores come before variants. A size that the plan may still give counts as if it came soon, until it has not come for a
while: then the cores cannot be had. The planner itself knows only the model, so it asks for the cores that full
accuracy needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sponge_core.cpu_sharing import thread_budget
from sponge_core.dispatch.decision import Decision, DispatchState
from sponge_core.dispatch.idle_start import start_if_idle
from sponge_core.dispatch.moldable_edf import decide
from sponge_core.dispatch.variants import flexible, levels, lines_at

__all__ = ["VariantRule"]

RESIZE_S: Final = 0.1
"""A larger size is expected to be in force so soon: time to project, to decide and to resize."""

PATIENCE_S: Final = 0.5
"""Cores that full accuracy needs and that have not come after so long cannot be had. They are expected again once the
size in force has changed."""


LOOK_S: Final = 0.02
"""Between two decisions while cores are awaited."""


MANY: Final = 64
"""Misses are not counted beyond this. If even the cheapest variants have so many, they answer: what is left is only how
many requests are lost."""


class VariantRule:
    """Moldable EDF with cheaper variants. It remembers since when cores have been too few."""

    def __init__(self) -> None:
        self._short_since: float | None = None
        self._short_at = 0.0  # the cores that were too few then
        self._stuck_at: float | None = None  # the cores beyond which none came

    def decide(self, state: DispatchState) -> Decision:
        """As `moldable_edf.decide`; launches say which variant runs them."""
        if not flexible(state):
            return decide(state)
        decision = self._decide(state)
        no_more_cores = self._stuck_at is not None or state.cores >= state.limits.max_cores
        return start_if_idle(state, decision, variants=no_more_cores)

    def _decide(self, state: DispatchState) -> Decision:
        full = lines_at(state, 0)
        decision = full.plan(sacrifice=False)
        done = sum(len(launch.requests) for launch in decision.launches) + len(decision.sheds)
        if done == len(state.queue) or not _may_start(state):
            return decision
        fewest = full.misses(state.cores, 0.0, MANY)
        if fewest == 0:
            self._short_since = None
            return decision
        cores = self._expected(state)
        if cores > state.cores:
            fewest = full.misses(cores, RESIZE_S, MANY)
        highest, found, chosen = levels(state), 0, full
        for level in range(1, highest + 1):
            if fewest == 0:
                break
            lines = lines_at(state, level)
            misses = lines.misses(cores, RESIZE_S, fewest)
            if misses < fewest or (fewest == MANY and level == highest):
                found, fewest, chosen = level, misses, lines
        if found == 0 and cores <= state.cores:
            return decision
        if found == 0:
            # Waiting for cores: look again before it is too late for a variant, too.
            look_at = state.now + LOOK_S
            return replace(decision, wake_at=look_at if decision.wake_at is None else min(look_at, decision.wake_at))
        return chosen.plan(sacrifice=fewest > 0 and found == highest)

    def _expected(self, state: DispatchState) -> float:
        """The cores that will be there soon, now that those in force are too few."""
        if self._short_since is None or self._short_at != state.cores:
            self._short_since, self._short_at = state.now, state.cores
        if state.now - self._short_since >= PATIENCE_S:
            self._stuck_at = state.cores
        elif self._stuck_at != state.cores:
            self._stuck_at = None
        return state.cores if self._stuck_at is not None else max(state.cores, state.limits.max_cores)


def _may_start(state: DispatchState) -> bool:
    """Whether a thread and a lane are free."""
    free = thread_budget(state.cores) - sum(batch.threads for batch in state.running)
    return free > 0 and len(state.running) < state.limits.lanes
