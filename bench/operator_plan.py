"""What many services take of the operator and of the control plane, by what `bench.operator_scale` has measured.

Reads its saved results: one for each number of services, at least two. A straight line through them gives what a
service costs at rest; the phases with edits and resizes give what each of those costs. Nothing else is assumed of the
software. What services do is an option: how many are busy, and how often one of those is resized
(`bench.live_baselines` has measured that).

    python -m bench.operator_scale --services 100 --out out/scale-100
    python -m bench.operator_scale --services 400 --out out/scale-400
    python -m bench.operator_plan out/scale-*/operator_scale.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.hollow_nodes import PODS_EACH
from bench.operator_scale import CHANGES_PER_S
from bench.options import at_least_one, at_least_zero, share
from bench.results import new_table
from sponge_core.errors import SpongeError

SERVICES = (300, 1_000, 10_000, 100_000)
BUSY_SHARE, RESIZES_PER_S, EDITS_PER_DAY = 0.1, 0.3, 1.0
SHARD_CORES = 0.5
"""One operator decides on one core. The other half is for moments when many services change at once."""

DAY_S = 86_400.0

MEASURED = (
    *("services", "rest_cores", "rest_mib", "rest_calls", "rest_control_cores", "change_cores"),
    *("resizes_per_s", "resize_cores", "resize_calls", "resize_control_cores"),
)
"""What the plan takes from a result."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the operator takes: CPU in cores or core-seconds, memory in MiB, calls to the API server.

    Attributes:
        base_cores, base_mib: of an operator without a service.
        service_cores, service_mib: of one more service at rest.
        edit_core_s: of one edit of a service.
        resize_core_s, resize_calls: of one resize.
        resize_control_core_s: of API server and etcd for one resize.
        largest: the most services that were measured.
    """

    base_cores: float
    service_cores: float
    base_mib: float
    service_mib: float
    edit_core_s: float
    resize_core_s: float
    resize_calls: float
    resize_control_core_s: float
    largest: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a number of services takes. Cores and MiB are those of all shards together."""

    services: int
    nodes: int
    resizes_per_s: float
    shards: int
    cores: float
    mib: float
    calls_per_s: float
    control_cores: float


def costs_of(documents: Sequence[Mapping[str, Any]]) -> Costs:
    """The costs by saved results. Raises SpongeError if a line cannot be drawn through them."""
    by_services = {int(each["services"]): each for each in documents}
    if len(by_services) < 2:
        raise SpongeError("give results of two numbers of services or more: a cost for each needs a line through them")
    if lacking := [services for services, each in by_services.items() if not each.get("resizes_per_s")]:
        raise SpongeError(f"the results with {lacking[0]} services have no resizes; run bench.operator_scale again")
    runs = list(by_services.values())
    base_cores, service_cores = _line(by_services, "rest_cores")
    base_mib, service_mib = _line(by_services, "rest_mib")

    def each_takes(name: str, of: str, rates: Sequence[float]) -> float:
        """The mean of what came on top of the rest, for one edit or resize."""
        return float(np.mean([(run[name] - run[of]) / rate for run, rate in zip(runs, rates, strict=True)]))

    resizes = [run["resizes_per_s"] for run in runs]
    return Costs(
        base_cores=base_cores,
        service_cores=service_cores,
        base_mib=base_mib,
        service_mib=service_mib,
        edit_core_s=each_takes("change_cores", "rest_cores", [CHANGES_PER_S] * len(runs)),
        resize_core_s=each_takes("resize_cores", "rest_cores", resizes),
        resize_calls=each_takes("resize_calls", "rest_calls", resizes),
        resize_control_core_s=each_takes("resize_control_cores", "rest_control_cores", resizes),
        largest=max(by_services),
    )


def read_result(path: Path) -> dict[str, float]:
    """A result of `bench.operator_scale`. Raises SpongeError for a file that is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {name: float(document[name]) for name in MEASURED}
        if not all(math.isfinite(value) for value in found.values()):
            raise ValueError("a figure is no finite number")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpongeError(
            f"{path} is no result of bench.operator_scale ({error}); run that again, or leave the file out"
        ) from None
    return found


def _line(by_services: Mapping[int, Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Value without services, and for one more; neither is negative."""
    counts = np.array(list(by_services), dtype=float)
    values = np.array([float(each[name]) for each in by_services.values()])
    slope = max(0.0, float(np.polyfit(counts, values, 1)[0]))
    return max(0.0, float(np.mean(values - slope * counts))), slope


def plan(costs: Costs, services: int, busy_share: float, resizes_per_s: float, edits_per_day: float) -> Plan:
    """What `services` take.

    Args:
        busy_share: of them that get requests at one moment.
        resizes_per_s: of one that does.
        edits_per_day: of one service.
    """
    resizes = services * busy_share * resizes_per_s
    edits = services * edits_per_day / DAY_S
    own = services * costs.service_cores + resizes * costs.resize_core_s + edits * costs.edit_core_s
    room = SHARD_CORES - costs.base_cores
    if room <= 0:
        raise SpongeError(f"an operator without services takes {costs.base_cores:.2f} core, more than a shard may have")
    shards = max(1, math.ceil(own / room))
    return Plan(
        services=services,
        nodes=math.ceil(services / PODS_EACH),
        resizes_per_s=resizes,
        shards=shards,
        cores=own + shards * costs.base_cores,
        mib=services * costs.service_mib + shards * costs.base_mib,
        calls_per_s=resizes * costs.resize_calls,
        control_cores=resizes * costs.resize_control_core_s,
    )


def table_of(plans: Sequence[Plan]) -> Table:
    """One line for each number of services."""
    names = ("services", "nodes", "resizes/s", "shards", "services each", "cores", "MiB each", "calls/s", "API server")
    table = new_table(None, [], names)
    for each in plans:
        table.add_row(
            f"{each.services:,}",
            f"{each.nodes:,}",
            f"{each.resizes_per_s:,.0f}",
            str(each.shards),
            f"{math.ceil(each.services / each.shards):,}",
            f"{each.cores:.2f}",
            f"{each.mib / each.shards:,.0f}",
            f"{each.calls_per_s:,.0f}",
            f"{each.control_cores:.1f}",
        )
    return table


def main() -> None:
    """Prints the costs and the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="operator_scale.json of each number of services")
    parser.add_argument("--services", type=at_least_one, nargs="+", default=SERVICES)
    parser.add_argument("--busy", type=share, default=BUSY_SHARE, help=f"share of services (default {BUSY_SHARE:g})")
    parser.add_argument(
        "--resizes", type=at_least_zero, default=RESIZES_PER_S, help=f"of a busy one/s ({RESIZES_PER_S:g})"
    )
    parser.add_argument(
        "--edits", type=at_least_zero, default=EDITS_PER_DAY, help=f"of each a day (default {EDITS_PER_DAY:g})"
    )
    options = parser.parse_args()
    try:
        costs = costs_of([read_result(path) for path in options.results])
        plans = [plan(costs, services, options.busy, options.resizes, options.edits) for services in options.services]
    except SpongeError as error:
        sys.exit(f"operator_plan: {error}")
    print(
        f"operator: {1000 * costs.base_cores:.0f} mcores and {costs.base_mib:.0f} MiB, and for each service "
        f"{1000 * costs.service_cores:.3f} mcores and {costs.service_mib:.3f} MiB (measured up to {costs.largest});\n"
        f"CPU ms: an edit {1000 * costs.edit_core_s:.1f}, a resize {1000 * costs.resize_core_s:.1f} and "
        f"{1000 * costs.resize_control_core_s:.1f} of the API server and etcd, in {costs.resize_calls:.1f} calls"
    )
    Console(width=120).print(table_of(plans))


if __name__ == "__main__":
    main()
