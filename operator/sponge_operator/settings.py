"""All settings of the operator; the command resolves them once and passes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sponge_operator.autoscale.control_loop import LoopSettings
from sponge_operator.resources.front_manifests import FrontSettings
from sponge_operator.resources.pod_security import Level as PodSecurityLevel
from sponge_system.logs import Level

__all__ = ["LeaseSettings", "OperatorSettings"]


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The Lease by which several operators agree on the one that acts.

    Attributes:
        identity: of this operator; the same for all processes of one pod, of which only one runs at a time.
    """

    namespace: str
    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """Settings of one operator.

    Attributes:
        namespaces: to watch; empty for all.
        server_image: image of the model server's container.
        server_template: partial pod template, merged over the generated one; each service's own is merged over it.
        front: what all fronts have in common.
        template_security: Pod Security level that the templates of services must keep to.
        tls_secret: name of the Secret with the certificate of services that name none; None for plain text.
        api_keys_secret: name of the Secret with the API keys of services that name none; None for none.
        deployment: NAMESPACE/NAME of the Deployment that runs the operator; None where none does.
        metrics_port: for Prometheus; 0 for none.
        health_port: for /healthz; 0 for none.
        lease: to act only as the leader; None: this is the only operator.
        log_level: of the log on stderr.
        decision_log: file for JSON lines, one for each decision that changed something; None for none.
        loop: times of each pod's control loop.
        status_interval_s: shortest time between two status writes that change figures only.
        resync_s: how often the children are looked at without a change that a watch reports.
        resizes_per_s: cluster-wide rate of resizes; grows go before shrinks.
    """

    namespaces: tuple[str, ...] = ()
    server_image: str = "sponge-server:latest"
    server_template: Mapping[str, Any] = field(default_factory=dict)
    front: FrontSettings = field(default_factory=FrontSettings)
    template_security: PodSecurityLevel = "restricted"
    tls_secret: str | None = None
    api_keys_secret: str | None = None
    deployment: str | None = None
    metrics_port: int = 9091
    health_port: int = 9092
    lease: LeaseSettings | None = None
    log_level: Level = "info"
    decision_log: Path | None = None
    loop: LoopSettings = field(default_factory=LoopSettings)
    status_interval_s: float = 2.0
    resync_s: float = 600.0
    resizes_per_s: float = 20.0
