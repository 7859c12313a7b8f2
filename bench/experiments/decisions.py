"""The paper's decisions by themselves: once a second on an uplink, without a queue."""

from __future__ import annotations

from statistics import mean

from sponge_core.planning.paper import PaperPlanner
from sponge_profiles.profile import load_profile
from sponge_simulator.scenario import load_scenario
from sponge_workload.bandwidth import BandwidthTrace

__all__ = ["PROFILE", "SCENARIO", "paper_decisions"]

SCENARIO = load_scenario("paper")
PROFILE = load_profile(SCENARIO.profile)


def paper_decisions(trace: BandwidthTrace) -> tuple[int, float]:
    """Infeasible seconds and mean cores over the paper's experiment; where it decides nothing its last plan is held."""
    kind = SCENARIO.classes[0]
    planner = PaperPlanner(PROFILE.latency_model(), int(SCENARIO.cores.max), SCENARIO.max_batch)
    cores: list[int] = []
    infeasible = 0
    for second in range(int(SCENARIO.duration_s)):
        network_s = kind.payload_bytes / trace.bytes_per_s[second % len(trace.bytes_per_s)]
        plan = planner.plan(SCENARIO.rate_rps, kind.slo_ms / 1000, network_s)
        infeasible += not plan.feasible
        cores.append(plan.cores if plan.feasible else (cores[-1] if cores else int(SCENARIO.cores.max)))
    return infeasible, mean(cores)
