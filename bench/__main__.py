"""`python -m bench`: runs every experiment in turn, in full or (`--short`) for a first look."""

from __future__ import annotations

import argparse
import subprocess
import sys

EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "bench.dispatch_ablation": ("--short",),
    "bench.experiments.sizes": ("--short",),
    "bench.experiments.front": ("--short",),
    "bench.decision_time": ("--short",),
    "bench.planner_speed": ("--short",),
    "bench.lane_speed": ("--rounds", "5"),
    "bench.resize_latency": ("--resizes", "12"),
    "bench.burst_reaction": ("--short",),
    "bench.fidelity": ("--short",),
    "bench.refusals": ("--short",),
    "bench.gzip_uplink": ("--short",),
    "bench.idle_cost": ("--short",),
    "bench.disconnects": ("--short",),
    "bench.fuzz": ("--requests", "2000"),
    "bench.strangers": ("--short",),
    "bench.live_resize": ("--short",),
    "bench.overload_classes": ("--short",),
    "bench.live_ablation": ("--short",),
    "bench.front": ("--short",),
    "bench.front_pods": ("--short",),
}
"""Every experiment, with its arguments for `--short`."""


def main() -> None:
    """Runs every experiment. Exits with the number of experiments that failed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="minutes instead of a quarter of an hour")
    options = parser.parse_args()
    failed = 0
    for module, short in EXPERIMENTS.items():
        command = [sys.executable, "-m", module, *(short if options.short else ())]
        print("==", *command[1:], flush=True)
        failed += subprocess.run(command, check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
