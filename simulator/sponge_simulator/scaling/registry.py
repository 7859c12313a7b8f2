"""The scaling policies by name. To add one, write a file in this folder and add a line here.

A name may include a size (`static-8`) or a throttle target (`captain-0.1`) and, after an @, a dispatch policy other
than the scaling policy's own (`vpa@moldable-edf`), so that the effects of sizing and batching can be separated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sponge_core.dispatch.registry import POLICIES as DISPATCH
from sponge_core.dispatch.registry import Dispatcher
from sponge_core.errors import SpongeError
from sponge_simulator.scaling.aladdin import Aladdin
from sponge_simulator.scaling.asyfunc import AsyFunc
from sponge_simulator.scaling.autopilot import Autopilot
from sponge_simulator.scaling.barista import Barista
from sponge_simulator.scaling.captain import Captain
from sponge_simulator.scaling.fa2 import Fa2
from sponge_simulator.scaling.harmonybatch import HarmonyBatch
from sponge_simulator.scaling.has import Has
from sponge_simulator.scaling.hpa import Hpa
from sponge_simulator.scaling.hybrid import Hybrid
from sponge_simulator.scaling.hybrid_deployed import HybridDeployed
from sponge_simulator.scaling.inferline import InferLine
from sponge_simulator.scaling.infless import InfLess
from sponge_simulator.scaling.interface import ScalingPolicy, Service
from sponge_simulator.scaling.kpa import Kpa
from sponge_simulator.scaling.sponge import Sponge
from sponge_simulator.scaling.sponge_deployed import SpongeDeployed
from sponge_simulator.scaling.sponge_paper import SpongePaper
from sponge_simulator.scaling.static import Static
from sponge_simulator.scaling.themis import Themis
from sponge_simulator.scaling.throttllem import ThrottLLeM
from sponge_simulator.scaling.vpa import Vpa

__all__ = ["POLICIES", "UnknownPolicyError", "make_policy"]

POLICIES: dict[str, Callable[[Service], ScalingPolicy]] = {
    "sponge": Sponge,
    "hybrid": Hybrid,
    "sponge-deployed": SpongeDeployed,
    "hybrid-deployed": HybridDeployed,
    "sponge-paper": SpongePaper,
    "fa2": Fa2,
    "vpa": Vpa,
    "vpa-fast": lambda service: Vpa(service, half_life_s=60.0, interval_s=1.0),
    "hpa": Hpa,
    "kpa": Kpa,
    "themis": Themis,
    "inferline": InferLine,
    "has": Has,
    "autopilot": Autopilot,
    "aladdin": Aladdin,
    "infless": InfLess,
    "harmonybatch": HarmonyBatch,
    "barista": Barista,
    "throttllem": ThrottLLeM,
    "asyfunc": AsyFunc,
    "captain": Captain,
}
"""There are also `static-C` for any number C of cores, and `captain-T` for any throttle target T from 0 to 1."""

_CAPTAIN = re.compile(r"captain-(\d+(?:\.\d+)?)")
_STATIC = re.compile(r"static-(\d+(?:\.\d+)?)")


class UnknownPolicyError(SpongeError):
    """A scaling or dispatch policy that does not exist; the message lists those that do."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A scaling policy ready to run, with the dispatch policy of its servers."""

    name: str
    scaling: ScalingPolicy
    dispatch: Dispatcher


def make_policy(name: str, service: Service) -> Chosen:
    """Makes a new instance of the policy that `name` means. Raises UnknownPolicyError."""
    policy, _, rule = name.partition("@")
    scaling = _scaling(policy, service)
    if rule and rule not in DISPATCH:
        raise UnknownPolicyError(f"policy '{name}': no dispatch rule '{rule}'; there are {', '.join(DISPATCH)}")
    return Chosen(name, scaling, DISPATCH[rule or scaling.dispatch].make())


def _scaling(name: str, service: Service) -> ScalingPolicy:
    static = _STATIC.fullmatch(name)
    if static:
        cores = float(static[1])
        if not 0 < cores <= 1024:
            raise UnknownPolicyError(f"policy '{name}': give it more than 0 and at most 1024 cores")
        return Static(service, cores)
    captain = _CAPTAIN.fullmatch(name)
    if captain:
        target = float(captain[1])
        if target > 1:
            raise UnknownPolicyError(f"policy '{name}': give it a throttle target from 0 to 1")
        return Captain(service, target)
    if name not in POLICIES:
        raise UnknownPolicyError(
            f"no policy '{name}'; there are {', '.join(POLICIES)}, static-C as in static-8, captain-T as in captain-0.1"
        )
    return POLICIES[name](service)
