"""`sponge front`: options to settings, then the picker, or the configuration of its proxy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click

from sponge_cli.common_options import LOG_LEVEL, Number
from sponge_core.routing.registry import DEFAULT, RULES, RuleName
from sponge_system.logs import Level

__all__ = ["command"]

EXAMPLE = """
\b
Examples:
  sponge front envoy-config --directory /run/front --write
  sponge front run --directory /run/front --service resnet18 --token-file /var/run/sponge/token
  envoy --config-path /run/front/envoy.json

Every option can be set in the environment: SPONGE_FRONT_RUN_SERVICE=..., and so on.
"""

PORT = click.IntRange(1, 65535)

DIRECTORY = click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="/run/sponge-front",
    show_default=True,
    help="Shared by picker and proxy: a socket, and files with the pods' addresses.",
)

POD_CERT = click.option(
    "--pods-cert-file",
    type=click.Path(path_type=Path),
    help="The pods' own certificate, where their ports speak TLS, with those of its authorities behind it.",
)
POD_CA = click.option(
    "--pods-ca-file",
    type=click.Path(path_type=Path),
    help="Further authorities of the pods' certificates; need not be there.",
)


@click.group(epilog=EXAMPLE)
def command() -> None:
    """Choose the pod of each request, for a proxy before a service."""


@command.command(epilog=EXAMPLE)
@DIRECTORY
@click.option("--service", default="", metavar="NAME", help="Service whose pods are followed through the API server.")
@click.option("--namespace", default="", metavar="NAME", help="Of that Service.  [default: the picker's own]")
@click.option(
    "--pod",
    "pods",
    multiple=True,
    metavar="ADDRESS,HTTP_PORT,GRPC_PORT,CONTROL_PORT",
    help="A pod, where there is no Service to follow; repeat for more.",
)
@click.option(
    "--rule",
    type=click.Choice(get_args(RuleName)),
    default=DEFAULT,
    show_default=True,
    help="; ".join(f"{name}: {rule.summary}" for name, rule in RULES.items()) + ".",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token of the servers' control ports. Without it, no load is known.",
)
@click.option(
    "--status-port",
    type=click.IntRange(0, 65535),
    default=9093,
    show_default=True,
    help="For /healthz and /metrics; 0 for none.",
)
@click.option(
    "--picker-address",
    default="",
    metavar="ADDRESS",
    help="Where other gateways ask, such as [::]:9002.  [default: only the proxy beside it, by its socket]",
)
@click.option(
    "--picker-cert-file",
    type=click.Path(path_type=Path),
    help="Certificate for TLS on that address, with those of its authorities behind it; read again when it changes.",
)
@click.option("--picker-key-file", type=click.Path(path_type=Path), help="Its key.")
@click.option(
    "--drain-s",
    type=Number(0.0, 3600.0),
    default=0.0,
    show_default=True,
    help="After a signal, tell the proxy to take leave of its clients, and go on for so long; 0: leave it alone.",
)
@click.option(
    "--wake",
    "wakes",
    is_flag=True,
    help="Where the service has no pod, ask for one, and let requests wait for it until their deadlines.",
)
@POD_CERT
@POD_CA
@LOG_LEVEL
def run(
    directory: Path,
    service: str,
    namespace: str,
    pods: tuple[str, ...],
    rule: RuleName,
    token_file: Path | None,
    status_port: int,
    picker_address: str,
    picker_cert_file: Path | None,
    picker_key_file: Path | None,
    drain_s: float,
    wakes: bool,
    pods_cert_file: Path | None,
    pods_ca_file: Path | None,
    log_level: Level,
) -> None:
    """Run the picker until a signal comes."""
    from sponge_front.main import run as run_front
    from sponge_front.pods import parse_pod
    from sponge_front.settings import FrontSettings, PodsTls, TlsFiles

    if bool(service) == bool(pods):
        raise click.UsageError("give either --service, to follow its pods, or --pod for each pod")
    picker_tls = None
    if picker_cert_file is not None and picker_key_file is not None:
        picker_tls = TlsFiles(picker_cert_file, picker_key_file)
    elif picker_cert_file or picker_key_file:
        raise click.UsageError("TLS needs both --picker-cert-file and --picker-key-file")
    run_front(
        FrontSettings(
            directory=directory,
            service=service,
            namespace=namespace,
            pods=tuple(map(parse_pod, pods)),
            rule=rule,
            token_file=token_file,
            status_port=status_port,
            picker_address=picker_address,
            picker_tls=picker_tls,
            drain_s=drain_s,
            wakes=wakes,
            pods_tls=None if pods_cert_file is None else PodsTls(pods_cert_file, pods_ca_file),
            log_level=log_level,
        )
    )


@command.command("envoy-config", epilog=EXAMPLE)
@DIRECTORY
@click.option("--write", is_flag=True, help="Write it to envoy.json in the directory, with files of no pods yet.")
@click.option("--host", default="::", show_default=True, help="To listen on; :: is every interface.")
@click.option("--http-port", type=PORT, default=8080, show_default=True, help="For REST.")
@click.option("--grpc-port", type=PORT, default=8081, show_default=True, help="For gRPC.")
@click.option("--status-port", type=PORT, default=9092, show_default=True, help="For /ready and /stats/prometheus.")
@click.option(
    "--pick-timeout-ms",
    type=Number(1.0, 60_000.0),
    default=20.0,
    show_default=True,
    help="A request waits so long for the picker; then it goes to the next pod in turn.",
)
@click.option(
    "--tls-cert-file",
    type=click.Path(path_type=Path),
    help="Certificate for TLS with clients, with those of its authorities behind it; read again when it changes.",
)
@click.option("--tls-key-file", type=click.Path(path_type=Path), help="Its key.")
@click.option(
    "--tls-client-ca-file",
    type=click.Path(path_type=Path),
    help="Authorities of the certificates that clients must have.",
)
@POD_CERT
@POD_CA
def envoy_config(
    directory: Path,
    write: bool,
    host: str,
    http_port: int,
    grpc_port: int,
    status_port: int,
    pick_timeout_ms: float,
    tls_cert_file: Path | None,
    tls_key_file: Path | None,
    tls_client_ca_file: Path | None,
    pods_cert_file: Path | None,
    pods_ca_file: Path | None,
) -> None:
    """Print the configuration of Envoy before a service."""
    from sponge_front.envoy_config import bootstrap
    from sponge_front.files import prepare
    from sponge_front.pods import ip_of
    from sponge_front.settings import EnvoySettings, PodsTls, TlsFiles
    from sponge_system.network import EVERY_INTERFACE, every_interface

    if len({http_port, grpc_port, status_port}) < 3:
        raise click.UsageError("--http-port, --grpc-port and --status-port must differ")
    if ip_of(host) is None:
        raise click.UsageError(f"--host {host} is no IP address; write one, as 127.0.0.1, or :: for every interface")
    tls = None
    if tls_cert_file is not None and tls_key_file is not None:
        client_ca = None if tls_client_ca_file is None else tls_client_ca_file.absolute()
        tls = TlsFiles(tls_cert_file.absolute(), tls_key_file.absolute(), client_ca)
    elif tls_cert_file or tls_key_file or tls_client_ca_file:
        raise click.UsageError("TLS needs both --tls-cert-file and --tls-key-file")
    settings = EnvoySettings(
        directory=directory.absolute(),
        http_port=http_port,
        grpc_port=grpc_port,
        status_port=status_port,
        pick_timeout_s=pick_timeout_ms / 1000,
        host=every_interface() if host == EVERY_INTERFACE else host,
        tls=tls,
        pods_tls=None if pods_cert_file is None else PodsTls(pods_cert_file, pods_ca_file),
    )
    if write:
        click.echo(prepare(settings))
    else:
        click.echo(json.dumps(bootstrap(settings), indent=1))
