"""`python -m bench.experiments`: every experiment in virtual time, its tables and pictures, and one page of HTML.

    python -m bench.experiments --quick                 a first look: the figures mean nothing
    python -m bench.experiments                         docs/research/experiments.md; goes on where it was interrupted
    python -m bench.experiments --only paper-poisson    one of them, with its tables on the terminal

Runs that have been done with the same parameters and the same code are not done again. The recordings of the uplink and
of arrivals are read from the folder that SPONGE_TRACES names; synthetic ones stand in for those that are not there.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from bench.experiments.campaign import run_missing
from bench.experiments.catalogue import EXPERIMENTS, quick
from bench.experiments.report import parts_of, write
from bench.options import at_least_one
from bench.serving.ledger import Ledger
from sponge_core.errors import SpongeError

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "research"


def main() -> None:
    """Runs what is missing, then writes everything anew."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 s, one seed, the ends of a sweep; leaves docs/ alone")
    parser.add_argument("--only", nargs="+", choices=sorted(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--seeds", type=at_least_one, help="at most so many, for a first look; leaves docs/ alone, too")
    parser.add_argument(
        "--spot-check",
        action="store_true",
        help="where only the code has changed, run one seed of each anew, and the others only if it differs",
    )
    parser.add_argument("--processes", type=at_least_one, default=os.cpu_count(), help="default: one a core, all niced")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "reproduce", metavar="DIR")
    options = parser.parse_args()
    chosen = {name: EXPERIMENTS[name] for name in options.only or EXPERIMENTS}
    if options.quick:
        chosen = {name: quick(each) for name, each in chosen.items()}
    if options.seeds:
        chosen = {name: replace(each, seeds=min(each.seeds, options.seeds)) for name, each in chosen.items()}
    whole = not (options.quick or options.seeds)
    try:
        ledger = Ledger(options.out / ("quick.jsonl" if options.quick else "runs.jsonl"))
        found = run_missing(chosen.values(), ledger, options.processes, options.spot_check)
        if options.only:
            for name, text in parts_of(chosen, found, options.out / "figures").items():
                print(f"\n{name}\n\n{text}")
            return
        page = write(chosen, found, PAGES, PAGES if whole else options.out / "docs", options.out)
    except SpongeError as error:
        sys.exit(f"bench.experiments: {error}")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
