"""`python -m bench`: runs every experiment in turn."""

from __future__ import annotations

import subprocess
import sys

EXPERIMENTS = ("bench.paper_experiment", "bench.lane_speed", "bench.resize_latency")


def main() -> None:
    """Runs all; exits with the number of experiments that failed."""
    failed = 0
    for module in EXPERIMENTS:
        print(f"== python -m {module}", flush=True)
        failed += subprocess.run([sys.executable, "-m", module], check=False).returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
