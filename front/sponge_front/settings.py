"""All settings of a front; the command resolves them once and passes them down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sponge_core.routing.registry import DEFAULT, RuleName
from sponge_front.pods import Pod
from sponge_system.logs import Level

__all__ = ["EnvoySettings", "FrontSettings", "PodsTls", "TlsFiles"]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM for TLS on a port; they are read again when they change.

    Attributes:
        cert: the certificate, followed by those of its authorities.
        key: its key.
        client_ca: authorities of the clients' certificates; None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class PodsTls:
    """Files in PEM for TLS with the pods; they are read again when they change.

    Attributes:
        cert: the pods' own certificate, followed by those of its authorities.
        ca: further authorities of theirs; need not be there.
    """

    cert: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class EnvoySettings:
    """What the proxy is set up with.

    Attributes:
        directory: shared with the picker: its socket, and the files with the pods' addresses.
        http_port, grpc_port: for clients.
        status_port: for probes and Prometheus.
        pick_timeout_s: a request waits so long for the picker; then it goes to the next pod in turn. A choice takes
            1 to 3 ms. Choices come one after the other: of many requests at once, most do better without.
        host: to listen on.
        tls: of the ports for clients; None: plain text.
        pods_tls: of the pods' ports; None: plain text.
    """

    directory: Path
    http_port: int = 8080
    grpc_port: int = 8081
    status_port: int = 9092
    pick_timeout_s: float = 0.008
    host: str = "::"
    tls: TlsFiles | None = None
    pods_tls: PodsTls | None = None


@dataclass(frozen=True, slots=True)
class FrontSettings:
    """What the picker is set up with.

    Attributes:
        directory: shared with the proxy.
        service: name of the Service whose pods are followed; empty: `pods` are all there are.
        namespace: of that Service; empty: the one that the picker runs in.
        pods: a fixed list, for a front outside of Kubernetes.
        rule: chooses the pods.
        token_file: holds the token of the servers' control ports; None: no load is read, and pods take turns.
        status_port: for probes and Prometheus; 0 for none.
        picker_address: where other gateways ask for a pod, as `[::]:9002`; empty: only the socket in `directory`.
        picker_tls: of that address; None: plain text.
        drain_s: after a signal, the picker tells the proxy to leave, and goes on for so long.
        wakes: where the service has no pod, ask for one, and let requests wait for it.
        pods_tls: of the pods' control ports; None: plain text.
        log_level: of the log on stderr.
    """

    directory: Path
    service: str = ""
    namespace: str = ""
    pods: tuple[Pod, ...] = ()
    rule: RuleName = DEFAULT
    token_file: Path | None = None
    status_port: int = 9093
    picker_address: str = ""
    picker_tls: TlsFiles | None = None
    drain_s: float = 0.0
    wakes: bool = False
    pods_tls: PodsTls | None = None
    log_level: Level = "info"
