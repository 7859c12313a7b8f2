"""The reference page of the Prometheus metrics, from the registries of server, operator and front."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry

from sponge_docs.markdown import code, front, table
from sponge_front.metrics import FrontMetrics
from sponge_operator.metrics import RESIZE_OUTCOMES
from sponge_operator.metrics import Metrics as OperatorMetrics
from sponge_server.observability.metrics import Metrics as ServerMetrics

__all__ = ["metrics_of", "metrics_page"]


def metrics_page() -> str:
    """Markdown of the page."""
    operator = CollectorRegistry()
    OperatorMetrics(operator)
    heads = ("name", "kind", "labels", "what")
    process = ("`process_...`", "", "", "CPU, memory and open files of the process that answers.")
    parts = [
        front(
            "Metrics",
            "Every Prometheus metric, in base units: seconds, bytes and cores. `deploy/grafana/sponge.json` is a "
            "dashboard of them, and `deploy/prometheus/alerts.yaml` has alerts.",
            "the metrics' definitions in server, operator and front",
        ),
        "## Model server",
        "`/metrics` on the control port (9090), without a token.",
        table(heads, [*metrics_of(ServerMetrics().registry), process]),
        "The outcome of a request (`outcome`) is `in_time`, `late`, `shed`, `expired`, `cancelled` or `error`.",
        "## Operator",
        "`/metrics` on the operator's port 9091. `pod`, `service` and `namespace` name the pod that a series is about.",
        table(heads, metrics_of(operator)),
        f"The outcome of a resize (`outcome`) is {', '.join(code(outcome) for outcome in RESIZE_OUTCOMES)}.",
        "## Front",
        "`/metrics` on the picker's port 9093. Envoy tells its own on port 9092, as `/stats/prometheus`.",
        table(heads, [*metrics_of(FrontMetrics().registry), process]),
        "A request ends (`ending`) `answered`, `refused`, `failed` or `cancelled`.",
    ]
    return "\n\n".join(parts) + "\n"


def metrics_of(registry: CollectorRegistry) -> Iterator[tuple[str, str, str, str]]:
    """Name, kind, labels and text of each metric that is defined on the registry, by name."""
    collectors: list[Any] = [each for each in registry._collector_to_names if hasattr(each, "_labelnames")]
    for collector in sorted(collectors, key=lambda each: str(each._name)):
        name = f"{collector._name}{'_total' if collector._type == 'counter' else ''}"
        yield code(name), collector._type, ", ".join(collector._labelnames), collector._documentation
