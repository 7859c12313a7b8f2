"""The routing rules by name, for the front and the simulator.

To add one, write a file in `rules`, then add its name to `RuleName` and a line to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from sponge_core.routing.interface import RoutingRule
from sponge_core.routing.rules.best_fit import BestFit
from sponge_core.routing.rules.blind import InTurn, Random
from sponge_core.routing.rules.least import LeastOutstanding, LeastQueue, TwoChoices

__all__ = ["DEFAULT", "RULES", "Rule", "RuleName"]


class Rule(NamedTuple):
    """A factory of rules, which is given a source of random numbers in [0, 1), and one line that says what they do."""

    make: Callable[[Callable[[], float]], RoutingRule]
    summary: str


RuleName = Literal["random", "in-turn", "two-choices", "least-outstanding", "least-queue", "best-fit"]

DEFAULT: Final[RuleName] = "best-fit"

RULES: Final[dict[RuleName, Rule]] = {
    "random": Rule(Random, "any pod, as kube-proxy does"),
    "in-turn": Rule(lambda _: InTurn(), "one pod after the other"),
    "two-choices": Rule(TwoChoices, "of two pods at random the one with fewer unanswered requests"),
    "least-outstanding": Rule(LeastOutstanding, "the pod with the fewest unanswered requests of this front"),
    "least-queue": Rule(LeastQueue, "the pod with the fewest requests, reported or sent since"),
    "best-fit": Rule(
        BestFit, "the pod where it makes the fewest requests miss by the pod's rule, then with the most margin"
    ),
}
