"""`sponge plan`: asks one planner for one decision. Reads a profile; runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click

from sponge_core.errors import SpongeError
from sponge_core.latency import LatencyModel
from sponge_core.planning.steady import plan_steady
from sponge_profiles.profile import load_profile
from sponge_simulator.paper import PaperPlanner

__all__ = ["command"]


@dataclass(frozen=True, slots=True)
class _Question:
    model: LatencyModel
    rate: float
    slo_ms: float
    network_ms: float
    max_cores: int
    max_batch: int


@dataclass(frozen=True, slots=True)
class _Answer:
    cores: int
    batch: int
    feasible: bool
    predicted_ms: float | None  # of one batch; null when infeasible


_INFEASIBLE = _Answer(0, 0, False, None)


def _paper(question: _Question) -> _Answer:
    planner = PaperPlanner(question.model, question.max_cores, question.max_batch)
    plan = planner.plan(question.rate, question.slo_ms / 1000, question.network_ms / 1000)
    return _Answer(plan.cores, plan.batch, True, round(plan.predicted_ms, 3)) if plan.feasible else _INFEASIBLE


def _projected(question: _Question) -> _Answer:
    sizes = [1000 * cores for cores in range(1, question.max_cores + 1)]
    remaining_s = (question.slo_ms - question.network_ms) / 1000
    found = plan_steady(question.rate, remaining_s, sizes, question.model, question.max_batch)
    if found is None:
        return _INFEASIBLE
    milli, projection = found
    return _Answer(milli // 1000, projection.largest_batch, True, round(projection.longest_s * 1000, 3))


PLANNERS: dict[str, Callable[[_Question], _Answer]] = {"projected": _projected, "paper": _paper}


@click.command(
    epilog="Example: sponge plan --planner paper --profile yolov5s-paper --rate 20 --slo-ms 1000 --network-ms 55 --json"
)
@click.option("--planner", type=click.Choice(list(PLANNERS)), default="projected", show_default=True)
@click.option("--profile", required=True, metavar="NAME|FILE", help="A shipped profile or a file of `sponge profile`.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), required=True, help="Requests per second.")
@click.option("--slo-ms", type=click.FloatRange(0, min_open=True), default=1000.0, show_default=True)
@click.option(
    "--network-ms", type=click.FloatRange(0), default=0.0, show_default=True, help="The network's share of the SLO."
)
@click.option("--max-cores", type=click.IntRange(1, 256), default=16, show_default=True)
@click.option("--max-batch", type=click.IntRange(1, 1024), default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    planner: str,
    profile: str,
    rate: float,
    slo_ms: float,
    network_ms: float,
    max_cores: int,
    max_batch: int,
    as_json: bool,
) -> None:
    """Prints the cores and the batch size that PLANNER would choose.

    `projected` replays the dispatch rule on a steady load; its batch is the largest that it formed. `paper` solves the
    integer program of the Sponge paper. Exits with 0 also when nothing is feasible: that is an answer.
    """
    if network_ms >= slo_ms:
        raise SpongeError(
            f"the network takes {network_ms:g} ms of an SLO of {slo_ms:g} ms: nothing is left; lower --network-ms"
        )
    model = load_profile(profile).latency_model()
    answer = PLANNERS[planner](_Question(model, rate, slo_ms, network_ms, max_cores, max_batch))
    if as_json:
        click.echo(json.dumps(asdict(answer)))
    elif answer.feasible:
        click.echo(f"{answer.cores} cores, batch {answer.batch} ({answer.predicted_ms:.1f} ms a batch)")
    else:
        click.echo(f"infeasible: no size up to {max_cores} cores with batches up to {max_batch} keeps {slo_ms:g} ms")
