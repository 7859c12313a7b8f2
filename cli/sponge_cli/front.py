"""`sponge front`: options to settings, then the picker, or the configuration of its proxy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from sponge_cli.common_options import LOG_LEVEL, Number
from sponge_core.routing.registry import DEFAULT, RULES, RuleName
from sponge_system.logs import Level

if TYPE_CHECKING:
    from sponge_front.settings import PodsTls, TlsFiles

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

FILE = click.Path(path_type=Path)


def certificate_of(port: str, where: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options `--PORT-cert-file` and `--PORT-key-file`, which `tls_files` reads."""
    cert = f"Certificate for TLS {where}, with those of its authorities behind it; read again when it changes."

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        function = click.option(f"--{port}-key-file", type=FILE, help="Its key.")(function)
        return click.option(f"--{port}-cert-file", type=FILE, help=cert)(function)

    return declare


def certificates_of_pods(function: Callable[..., None]) -> Callable[..., None]:
    """The options that `pods_tls` reads."""
    cert = "The pods' own certificate, where their ports speak TLS, with those of its authorities behind it."
    ca = "Further authorities of the pods' certificates; need not be there."
    function = click.option("--pods-ca-file", type=FILE, help=ca)(function)
    return click.option("--pods-cert-file", type=FILE, help=cert)(function)


def tls_files(port: str, cert: Path | None, key: Path | None, client_ca: Path | None = None) -> TlsFiles | None:
    """The files of `certificate_of`; None without them. Raises UsageError if one of the two is missing."""
    from sponge_front.settings import TlsFiles

    if cert is not None and key is not None:
        # The proxy may have another working directory.
        return TlsFiles(cert.absolute(), key.absolute(), None if client_ca is None else client_ca.absolute())
    if cert or key or client_ca:
        raise click.UsageError(f"TLS needs both --{port}-cert-file and --{port}-key-file")
    return None


def pods_tls(cert: Path | None, ca: Path | None) -> PodsTls | None:
    """The files of `certificates_of_pods`; None without them. Raises UsageError if only the authorities are there."""
    from sponge_front.settings import PodsTls

    if cert is not None:
        return PodsTls(cert, ca)
    if ca is not None:
        raise click.UsageError("--pods-ca-file needs --pods-cert-file beside it")
    return None


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
    type=FILE,
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
@certificate_of("picker", "on that address")
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
@certificates_of_pods
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
    from sponge_front.settings import FrontSettings

    if bool(service) == bool(pods):
        raise click.UsageError("give either --service, to follow its pods, or --pod for each pod")
    if wakes and not service:
        raise click.UsageError("--wake needs --service: only the pods of a Service can be asked for")
    picker_tls = tls_files("picker", picker_cert_file, picker_key_file)
    if picker_tls is not None and not picker_address:
        raise click.UsageError("--picker-cert-file needs --picker-address, the port that it is for")
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
            pods_tls=pods_tls(pods_cert_file, pods_ca_file),
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
    default=8.0,
    show_default=True,
    help="A request waits so long for the picker; then it goes to the next pod in turn.",
)
@certificate_of("tls", "with clients")
@click.option("--tls-client-ca-file", type=FILE, help="Authorities of the certificates that clients must have.")
@certificates_of_pods
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
    from sponge_front.settings import EnvoySettings
    from sponge_system.network import EVERY_INTERFACE, every_interface

    if len({http_port, grpc_port, status_port}) < 3:
        raise click.UsageError("--http-port, --grpc-port and --status-port must differ")
    if ip_of(host) is None:
        raise click.UsageError(f"--host {host} is no IP address; write one, as 127.0.0.1, or :: for every interface")
    settings = EnvoySettings(
        directory=directory.absolute(),
        http_port=http_port,
        grpc_port=grpc_port,
        status_port=status_port,
        pick_timeout_s=pick_timeout_ms / 1000,
        host=every_interface() if host == EVERY_INTERFACE else host,
        tls=tls_files("tls", tls_cert_file, tls_key_file, tls_client_ca_file),
        pods_tls=pods_tls(pods_cert_file, pods_ca_file),
    )
    if write:
        click.echo(prepare(settings))
    else:
        click.echo(json.dumps(bootstrap(settings), indent=1))
