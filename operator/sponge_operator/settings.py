"""Every setting of the operator, resolved once by the command and passed down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OperatorSettings"]


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How this operator runs.

    Attributes:
        namespaces: those to serve; empty for all.
        server_image: image of the model server's container.
        server_template: partial pod template, merged over the built one and under each service's own.
        metrics_port: for Prometheus; 0 for none.
        health_port: for /healthz; 0 for none.
        decision_log: JSON lines, one per decision that changed something; None for none.
        poll_s: how long a server may hold back its state when nothing is urgent.
        actuate_timeout_s: how long one resize is waited for before the loop goes on and looks again.
        apply_timeout_s: how long a server may take until its running batches fit a smaller budget; the quota waits.
        status_interval_s: shortest time between two writes of a status whose figures alone changed.
        resync_s: how often children are applied again without a cause.
        resizes_per_s: cluster-wide rate of shrinks; growing has the whole of the burst for itself.
    """

    namespaces: tuple[str, ...] = ()
    server_image: str = "sponge-server:latest"
    server_template: Mapping[str, Any] = field(default_factory=dict)
    metrics_port: int = 9091
    health_port: int = 9092
    decision_log: Path | None = None
    poll_s: float = 1.0
    actuate_timeout_s: float = 2.0
    apply_timeout_s: float = 2.0
    status_interval_s: float = 2.0
    resync_s: float = 60.0
    resizes_per_s: float = 20.0
