"""The manifests of the server that every system scales: those of the operator, without the operator. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.fidelity import VERBOSE
from bench.live_baselines.schedules import Target
from sponge_core.quantities import cpu_quantity
from sponge_core.resource_names import GROUP, KIND, VERSION
from sponge_operator.resources.manifests import (
    SERVICE_LABEL,
    build_config_map,
    build_deployment,
    build_secret,
    build_service,
)
from sponge_operator.resources.model import SpongeService, parse_service

__all__ = ["NAME", "NAMESPACE", "plain_server", "sponge_service"]

NAMESPACE = "sponge-baselines"
NAME = "target"
LABEL = "bench/server"
"""In place of the operator's label: it must not take these pods for its own."""

SOURCE_KEY = "benchmark"
"""Of the model's source, which never changes."""

Manifest = dict[str, Any]


def sponge_service(
    target: Target,
    least_milli: int | None = None,
    most_milli: int | None = None,
    replicas: tuple[int, int] = (1, 1),
    startup_milli: int | None = None,
) -> Manifest:
    """The SpongeService.

    Args:
        least_milli, most_milli: sizes of a pod; None: the target's.
        replicas: the fewest and the most pods.
        startup_milli: of a pod until it is ready; None: the operator's default.
    """
    startup = {} if startup_milli is None else {"startup": cpu_quantity(startup_milli)}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "model": {"name": target.model, "source": target.source},
            "slo": {"latency": f"{target.slo_s * 1000:g}ms", "target": target.target * 100},
            "cpu": {
                "min": cpu_quantity(least_milli or target.least_milli),
                "max": cpu_quantity(most_milli or target.most_milli),
                "step": cpu_quantity(target.step_milli),
                **startup,
            },
            "replicas": {"min": replicas[0], "max": replicas[1]},
            "batch": {"max": target.max_batch},
            "profile": {"from": target.profile},
            "template": VERBOSE,
        },
    }


def plain_server(
    target: Target, milli: int, replicas: int, server: Mapping[str, Any], *, resized: bool
) -> list[Manifest]:
    """A Deployment with the operator's pods, what they mount, and a Service.

    Args:
        milli: of each new pod.
        server: image and pod template of this cluster, as in the chart's value `server`.
        resized: the pods change their size in place, so their servers plan with the target's sizes, not with one.
    """
    manifest = sponge_service(target) if resized else sponge_service(target, milli, milli)
    manifest["metadata"] |= {"uid": "none", "generation": 1}
    service: SpongeService = parse_service(manifest)
    deployment = build_deployment(service, milli, server["image"], server["template"], SOURCE_KEY)
    deployment["spec"]["replicas"] = replicas
    objects = [
        build_config_map(service, milli, {SOURCE_KEY: service.spec.model.source}),
        build_secret(service, "0" * 32),
        build_service(service),
        deployment,
    ]
    for each in objects:
        del each["metadata"]["ownerReferences"]
    return [_relabelled(each) for each in objects]


def _relabelled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {LABEL if key == SERVICE_LABEL else key: _relabelled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_relabelled(each) for each in value]
    return value
