"""What comparisons in virtual time share: the options of their runs, and one process for each of several runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from bench import options
from bench.options import at_least_one, natural, positive

__all__ = ["arguments", "compared_rules", "parsed", "run_all"]

C = TypeVar("C")
R = TypeVar("R")


def arguments(text: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """An argument parser with the options of every comparison. `text` is the module's docstring."""
    parser = options.arguments(text)
    parser.add_argument("--seeds", type=at_least_one, default=3)
    parser.add_argument("--duration-s", type=positive, default=60.0)
    parser.add_argument("--processes", type=natural, default=1, help="0: one for each core of the machine")
    parser.set_defaults(**defaults)
    return parser


def compared_rules(parser: argparse.ArgumentParser, rules: Collection[str]) -> None:
    """Adds the option that chooses among the rules."""
    parser.add_argument("--rules", nargs="+", choices=rules, default=[*rules], metavar="RULE", help=", ".join(rules))


def parsed(parser: argparse.ArgumentParser, short_s: float) -> argparse.Namespace:
    """The options of the command line; with --short, one seed of `short_s` seconds."""
    options = parser.parse_args()
    if options.short:
        options.seeds, options.duration_s = 1, short_s
    return options


def run_all(run: Callable[[C], R], cases: Sequence[C], processes: int) -> list[R]:
    """The result of each case, in order, while stderr shows how far it is.

    Args:
        processes: how many cases run at a time; 0: one for each core of the machine.
    """
    with ProcessPoolExecutor(processes or None) as workers:
        done = workers.map(run, cases)
        return list(track(done, "simulating", len(cases), console=Console(stderr=True), transient=True))
