"""`sponge operator`: options to settings, then the operator."""

from __future__ import annotations

import asyncio
import socket
import uuid
from pathlib import Path
from typing import get_args

import click

from sponge_cli.common_options import LOG_LEVEL, Number
from sponge_operator.resources.front_manifests import FrontSettings
from sponge_operator.resources.pod_security import Level as PodSecurityLevel
from sponge_system.logs import Level, set_up

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge operator run --server-image registry.example.com/sponge-server:VERSION
  KUBECONFIG=~/.kube/config sponge operator run --namespace team-a --decision-log decisions.jsonl

Every option can be set in the environment: SPONGE_OPERATOR_RUN_SERVER_IMAGE=..., and so on.
"""


def _slashed(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, str] | None:
    if value is None:
        return None
    namespace, slash, name = value.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise click.BadParameter(f"{value!r}: write NAMESPACE/NAME, such as sponge-system/sponge-operator")
    return namespace, name


@click.group()
def command() -> None:
    """Run the Kubernetes operator."""


@command.command(epilog=EXAMPLE)
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Serve only this namespace; repeat for more.  [default: all]",
)
@click.option("--server-image", default="sponge-server:latest", show_default=True, help="Image of the model server.")
@click.option(
    "--server-template",
    type=click.Path(path_type=Path),
    help="YAML file with a partial pod template, merged under each service's own.",
)
@click.option(
    "--front-image", default=FrontSettings().picker, show_default=True, help="Image of the pickers of fronts."
)
@click.option(
    "--front-role",
    default=FrontSettings().role,
    show_default=True,
    help="ClusterRole that lets pickers follow EndpointSlices; empty: there are no fronts.",
)
@click.option("--envoy-image", default=FrontSettings().envoy, show_default=True, help="Image of the proxies of fronts.")
@click.option(
    "--front-template",
    type=click.Path(path_type=Path),
    help="YAML file with a partial pod template, merged over that of the fronts.",
)
@click.option(
    "--template-security",
    type=click.Choice(get_args(PodSecurityLevel)),
    default="restricted",
    show_default=True,
    help="Pod Security level that the templates of services must keep to; --server-template need not.",
)
@click.option("--server-tls-secret", metavar="NAME", help="Secret with the certificate of services that name none.")
@click.option("--server-api-keys-secret", metavar="NAME", help="Secret with the API keys of services that name none.")
@click.option(
    "--deployment",
    metavar="NAMESPACE/NAME",
    help="Deployment that runs this operator. Without one that goes on, pods have at least cpu.fallback at the end.",
)
@click.option("--metrics-port", default=9091, show_default=True, help="For Prometheus; 0 for none.")
@click.option("--health-port", default=9092, show_default=True, help="For /healthz; 0 for none.")
@click.option(
    "--resizes-per-s",
    type=Number(min=0.1),
    default=20.0,
    show_default=True,
    help="Resizes a second over all pods; bursts are up to twice as many, and grows go before shrinks.",
)
@click.option(
    "--lease",
    metavar="NAMESPACE/NAME",
    callback=_slashed,
    help="Lease by which several operators agree on the one that acts.  [default: none, so run only one]",
)
@click.option(
    "--identity",
    metavar="NAME",
    help="Name of this operator in the Lease, such as its pod's name.  [default: the host's name and a random part]",
)
@click.option(
    "--decision-log", type=click.Path(path_type=Path), help="Append each decision to this file, one JSON object a line."
)
@LOG_LEVEL
def run(
    namespaces: tuple[str, ...],
    server_image: str,
    server_template: Path | None,
    front_role: str,
    front_image: str,
    envoy_image: str,
    front_template: Path | None,
    template_security: PodSecurityLevel,
    server_tls_secret: str | None,
    server_api_keys_secret: str | None,
    deployment: str | None,
    metrics_port: int,
    health_port: int,
    resizes_per_s: float,
    lease: tuple[str, str] | None,
    identity: str | None,
    decision_log: Path | None,
    log_level: Level,
) -> None:
    """Run the operator until a signal comes.

    Connects with the pod's ServiceAccount; outside of a cluster, with KUBECONFIG. Without --lease, run only one
    operator at a time.
    """
    from sponge_operator.main import run as run_operator
    from sponge_operator.resources.template import read_template
    from sponge_operator.settings import LeaseSettings, OperatorSettings

    settings = OperatorSettings(
        namespaces=namespaces,
        server_image=server_image,
        server_template=read_template(server_template, "--server-template") if server_template is not None else {},
        front=FrontSettings(
            front_role,
            front_image,
            envoy_image,
            read_template(front_template, "--front-template") if front_template is not None else {},
        ),
        template_security=template_security,
        tls_secret=server_tls_secret,
        api_keys_secret=server_api_keys_secret,
        deployment=deployment,
        metrics_port=metrics_port,
        health_port=health_port,
        resizes_per_s=resizes_per_s,
        lease=LeaseSettings(*lease, identity or _own_name()) if lease is not None else None,
        log_level=log_level,
        decision_log=decision_log,
    )
    run_operator(settings)


@command.command()
@click.option("--host", required=True, help="Where the operator answers /healthz, such as its Service.")
@click.option("--health-port", default=9092, show_default=True, help="Port of /healthz.")
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="That the operator serves.  [default: all]"
)
def check(host: str, health_port: int, namespaces: tuple[str, ...]) -> None:
    """Check an installation: the CRD is served, the rights are there, the operator is healthy."""
    from sponge_operator.check import check as check_operator

    asyncio.run(check_operator((host, health_port), namespaces, click.echo))


@command.command()
@click.option(
    "--deployment",
    required=True,
    metavar="NAMESPACE/NAME",
    callback=_slashed,
    help="Deployment that runs the operator.",
)
@click.option("--lease", metavar="NAMESPACE/NAME", callback=_slashed, help="Lease of the operators, to delete.")
def retire(deployment: tuple[str, str], lease: tuple[str, str] | None) -> None:
    """Stop the operator for good, while it still has its rights, so that its pods are left at cpu.fallback or more.

    Waits at most 45 s, and does not fail: whatever the state of the operator, it can be removed afterwards.
    """
    from sponge_operator.clients.kube import Kube
    from sponge_operator.retire import retire as retire_operator

    async def run() -> bool:
        async with Kube() as kube:
            return await retire_operator(kube, deployment, lease)

    set_up("info", "text")
    click.echo("the operator has stopped" if asyncio.run(run()) else "the operator has not stopped in time")


def _own_name() -> str:
    return f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
