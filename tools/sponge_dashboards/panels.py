"""The panels of the dashboard, row by row: what each shows, in which unit, and how wide it is. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sponge_dashboards.promql import (
    attainment,
    burn_rate,
    increase_of,
    mean,
    of_fronts,
    of_operator,
    of_servers,
    quantile,
    rate_of,
)

__all__ = ["ROWS", "Panel", "Query"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        unit: Grafana's name of the unit.
        width: of the 24 columns of a row.
        limits: smallest and largest value of the axis; None: it fits the data.
        big: a single number rather than lines.
    """

    title: str
    text: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    limits: tuple[float | None, float | None] = (0, None)
    big: bool = False


def _quantiles(histogram: str, *levels: float) -> tuple[Query, ...]:
    buckets = of_servers(f"{histogram}_bucket")
    return tuple(Query(quantile(level, buckets), f"p{level * 100:g}") for level in levels)


def _servers(name: str, legend: str, how: str = "sum", by: str = "", more: str = "") -> Query:
    labels = f" by ({by})" if by else ""
    return Query(f"{how}{labels} ({of_servers(name)}{more})", legend)


_DEADLINES = (
    Panel(
        "Attainment",
        "Requests in time / all requests, within the chosen time range.",
        [Query(attainment(interval="$__range"), "in time")],
        "percentunit",
        4,
        (0, 1),
        big=True,
    ),
    Panel(
        "Attainment over time",
        "Requests in time / all requests, for all classes and for each.",
        [Query(attainment(), "all"), Query(attainment("slo_class"), "{{slo_class}}")],
        "percentunit",
        10,
        (0, 1),
    ),
    Panel(
        "Burn rate of the error budget",
        "Share of requests not in time, divided by what slo.target allows. At 1, the budget just lasts.",
        [Query(burn_rate(window), f"{{{{service}}}}, {window}") for window in ("5m", "1h")],
        "none",
        10,
    ),
    Panel(
        "Requests by outcome",
        "Requests a second.",
        [Query(rate_of(of_servers("sponge_requests_total"), "outcome"), "{{outcome}}")],
        "reqps",
    ),
    Panel(
        "Latency from the client's send time",
        "It includes the network's share.",
        _quantiles("sponge_request_latency_seconds", 0.5, 0.95, 0.99),
        "s",
    ),
    Panel(
        "Slack at dispatch",
        "Deadline minus time of dispatch. Below the time of a batch, the deadline is missed.",
        _quantiles("sponge_slack_at_dispatch_seconds", 0.01, 0.1, 0.5),
        "s",
        limits=(None, None),
    ),
)

_CORES = (
    Panel(
        "Desired and in force",
        "Cores of all pods of a service. Refused: what it lacks because its node is shared.",
        [
            Query(f"sum by (service) ({of_operator(f'sponge_operator_{name}_cores')})", f"{{{{service}}}} {legend}")
            for name, legend in (("desired", "desired"), ("actuated", "in force"), ("refused", "refused"))
        ],
        "none",
        14,
    ),
    Panel(
        "Cores saved",
        "Compared with always running at cpu.max.",
        [Query(rate_of(of_operator("sponge_operator_saved_core_seconds_total"), "service"), "{{service}}")],
        "none",
        10,
    ),
    Panel(
        "Time of a resize",
        "From the patch until the quota is in force.",
        [Query(quantile(q, "sponge_operator_resize_seconds_bucket"), f"p{q * 100:g}") for q in (0.5, 0.99)],
        "s",
    ),
    Panel(
        "Resizes by outcome",
        "Resizes a second.",
        [Query(rate_of("sponge_operator_resize_total", "outcome"), "{{outcome}}")],
        "none",
    ),
    Panel(
        "Pods whose resize is blocked",
        "By the reason of the condition ResizeBlocked.",
        [
            Query(
                f"count by (service, reason) ({of_operator('sponge_operator_resize_blocked')}) or vector(0)",
                "{{service}} {{reason}}",
            )
        ],
        "none",
    ),
    Panel(
        "Held resizes",
        "Resizes that nothing refuses: held back by the rate of all pods, a pause or a cooldown. Each counts once.",
        [
            Query(
                f"{increase_of(of_operator('sponge_operator_resize_held_total'), 'service, reason')} or vector(0)",
                "{{service}} {{reason}}",
            )
        ],
        "none",
    ),
    Panel(
        "Throttled",
        "Seconds a second that the kernel withheld the CPU from a pod.",
        [Query(rate_of(of_servers("sponge_cpu_throttled_seconds_total"), "pod"), "{{pod}}")],
        "percentunit",
    ),
    Panel(
        "CPU",
        "Quota of all pods, and what their HTTP processes use of it.",
        [
            _servers("sponge_cpu_quota_cores", "quota"),
            Query(rate_of(of_servers("process_cpu_seconds_total")), "HTTP process"),
            _servers("sponge_core_compiled", "1: decisions run compiled", "min"),
        ],
        "none",
    ),
    Panel(
        "Change of size in the server",
        "Projection: one replay of the schedule. Apply: from the operator's message until the threads in use fit it.",
        [
            Query(quantile(0.99, of_servers("sponge_projection_seconds_bucket")), "projection p99"),
            Query(quantile(0.99, of_servers("sponge_reconfigure_seconds_bucket")), "apply p99"),
        ],
        "s",
    ),
)

_BATCHES = (
    Panel(
        "Queue",
        "Rows that wait, requests whose body is on its way, and places that more urgent requests took.",
        [
            _servers("sponge_queue_length", "waiting"),
            _servers("sponge_uploads_in_flight", "uploading"),
            Query(rate_of(of_servers("sponge_queue_displaced_total")), "places lost a second"),
        ],
    ),
    Panel("Time in the queue", "From arrival to dispatch.", _quantiles("sponge_queue_seconds", 0.5, 0.99), "s"),
    Panel(
        "Batch size",
        "The mean, and the largest that the planner allows.",
        [Query(mean("sponge_batch_size"), "mean"), _servers("sponge_batch_cap", "cap", "max")],
    ),
    Panel("Time of a batch", "In its lane.", _quantiles("sponge_batch_seconds", 0.5, 0.95, 0.99), "s"),
    Panel(
        "Prediction error",
        "Measured over predicted work of a batch; 1 is right.",
        _quantiles("sponge_latency_prediction_ratio", 0.05, 0.5, 0.95),
        "none",
    ),
    Panel(
        "Variants",
        "Answers a second by the variant that gave them, of models with variants.",
        [
            Query(
                f"{rate_of(of_servers('sponge_answers_total'), 'model, variant')} or vector(0)", "{{model}} {{variant}}"
            )
        ],
        "reqps",
    ),
    Panel(
        "Versions",
        "Pods by the version that serves, and versions that were loaded beside it.",
        [
            Query(
                f"count by (model, version) ({of_servers('sponge_model_version')}) or vector(0)",
                "{{model}} {{version}}",
            ),
            Query(
                f"{increase_of(of_servers('sponge_model_loads_total'), 'outcome')} or vector(0)", "loaded: {{outcome}}"
            ),
        ],
        "none",
    ),
    Panel(
        "Profile has drifted",
        "1 while batches take much more or less time than the profile says.",
        [_servers("sponge_profile_drifted", "{{pod}}", "max", "pod")],
        "none",
    ),
    Panel(
        "Threads",
        "Of the running batches, and how many may run at once.",
        [
            _servers("sponge_threads_running", "running"),
            _servers("sponge_thread_budget", "budget"),
            Query(mean("sponge_batch_threads"), "mean of a batch"),
        ],
        "none",
    ),
    Panel(
        "Lanes",
        "Inference workers of all pods, and batches lost to lanes that died or hung.",
        [
            _servers("sponge_lanes", "lanes"),
            _servers("sponge_lanes_healthy", "healthy"),
            _servers("sponge_lanes_running", "running"),
            Query(increase_of(of_servers("sponge_lane_crashes_total"), "model"), "{{model}}: batches lost"),
        ],
        "none",
    ),
    Panel(
        "Memory",
        "Limit of a pod, what a server measured at its start, and the account of requests.",
        [
            _servers("sponge_memory_limit_bytes", "limit", "min", more=" > 0"),
            _servers("sponge_memory_bytes", "{{part}}, at start", "max", "part"),
            _servers("process_resident_memory_bytes", "HTTP process", "max"),
            _servers("sponge_request_bytes", "requests", "max"),
            _servers("sponge_request_bytes_limit", "requests, at most", "min"),
        ],
        "bytes",
    ),
)

_PODS = (
    Panel(
        "Pods",
        "Pods of a service that are wanted, present, and serving.",
        [
            Query(
                f"sum by (service, state) ({of_operator('sponge_operator_replicas')})",
                "{{service}} {{state}}",
            )
        ],
        "none",
    ),
    Panel(
        "Changes of the number of pods",
        "More (out) or fewer (in), by reason.",
        [
            Query(
                increase_of(of_operator("sponge_operator_scalings_total"), "service, direction, reason"),
                "{{service}} {{direction}}: {{reason}}",
            )
        ],
        "none",
    ),
    Panel(
        "Cold start",
        "From the creation of a pod until it serves; the price of another pod.",
        [Query(f"max by (service) ({of_operator('sponge_operator_cold_start_seconds')})", "{{service}}")],
        "s",
    ),
    Panel(
        "Full nodes",
        "Nodes on which a pod of the service cannot have the size that it should have.",
        [Query(f"max by (service) ({of_operator('sponge_operator_full_nodes')})", "{{service}}")],
        "none",
    ),
)

_FRONTS = (
    Panel(
        "Fronts",
        "Fronts of a service that are wanted, and that take requests; and why FrontReady is False.",
        [
            Query(f"sum by (service, state) ({of_operator('sponge_operator_fronts')})", "{{service}} {{state}}"),
            Query(
                f"max by (service, reason) ({of_operator('sponge_operator_front_not_ready')}) or vector(0)",
                "{{service}} not ready: {{reason}}",
            ),
        ],
        "none",
    ),
    Panel(
        "Requests by how they ended at their pod",
        "Requests a second for which the pickers chose a pod, and those that had none or needed no choice.",
        [
            Query(rate_of(of_fronts("sponge_front_requests_total"), "ending"), "{{ending}}"),
            Query(rate_of(of_fronts("sponge_front_unpicked_requests_total"), "why"), "not chosen: {{why}}"),
        ],
        "reqps",
    ),
    Panel(
        "Without the picker, and again",
        "Requests a second that went to the pods in turn because the picker was away or late, and that were handed on.",
        [
            Query(
                rate_of(of_fronts("envoy_http_ext_proc_failure_mode_allowed")),
                "in turn",
            ),
            Query(rate_of(of_fronts("envoy_cluster_upstream_rq_retry", 'envoy_cluster_name=~"pods-.*"')), "handed on"),
        ],
        "reqps",
    ),
    Panel(
        "Time of a choice",
        "In the picker; Envoy waits for it 20 ms at most.",
        [
            Query(quantile(level, of_fronts("sponge_front_pick_seconds_bucket")), f"p{level * 100:g}")
            for level in (0.5, 0.99)
        ],
        "s",
    ),
    Panel(
        "Pods as the fronts see them",
        "Pods that the front knows that knows the fewest, whose load it hears, and that the most cautious one avoids.",
        [
            Query(f"min ({of_fronts('sponge_front_pods')})", "known"),
            Query(f"min ({of_fronts('sponge_front_pods_reporting')})", "heard"),
            Query(f"max ({of_fronts('sponge_front_pods_avoided')})", "avoided"),
        ],
        "none",
    ),
    Panel(
        "Age of reports",
        "Of the pod whose last report is the oldest, in each front. An idle pod reports every second.",
        [Query(f"max by (pod) ({of_fronts('sponge_front_report_age_seconds')})", "{{pod}}")],
        "s",
    ),
    Panel(
        "Latency through the front",
        "From the first byte of a request to the last one of its answer, as Envoy measures it.",
        [
            Query(
                quantile(
                    level,
                    of_fronts("envoy_http_downstream_rq_time_bucket", 'envoy_http_conn_manager_prefix=~"http|grpc"'),
                ),
                f"p{level * 100:g}",
            )
            for level in (0.5, 0.99)
        ],
        "ms",
    ),
    Panel(
        "Certificates of the fronts",
        "Days until the first one expires, and changed Secrets that could not be used.",
        [
            Query(f"min by (pod) ({of_fronts('envoy_server_days_until_first_cert_expiring')})", "days left: {{pod}}"),
            Query(increase_of(of_fronts("envoy_sds_key_rotation_failed"), "pod"), "refused: {{pod}}"),
        ],
        "none",
    ),
)

_TROUBLE = (
    Panel(
        "Refused, by reason",
        "Requests a second: refused or lost in the queue, answered with an error, or failed by the server itself.",
        [
            Query(
                rate_of(of_servers("sponge_dispatch_total", 'reason=~"shed|expire|sacrifice"'), "reason"),
                "{{reason}} from the queue",
            ),
            Query(rate_of(of_servers("sponge_problems_total"), "status"), "answered {{status}}"),
            Query(rate_of(of_servers("sponge_internal_errors_total"), "port"), "errors of the server itself, {{port}}"),
        ],
        "reqps",
    ),
    Panel(
        "Connections",
        "Open ones by port, and send times of clients that were corrected or ignored.",
        [
            _servers("sponge_http_connections", "{{port}}", by="port"),
            Query(
                rate_of(of_servers("sponge_sent_at_ignored_total"), "reason"), "send times ignored a second: {{reason}}"
            ),
            Query(rate_of(of_servers("sponge_sent_at_corrected_total")), "send times corrected a second"),
        ],
        "none",
    ),
    Panel(
        "Certificates and keys",
        "Days that certificates are valid, and changed files or handshakes that failed.",
        [
            Query(
                f"min by (pod) (({of_servers('sponge_certificate_expiry_seconds')} > 0) - time()) / 86400",
                "days left: {{pod}}",
            ),
            Query(
                increase_of(of_servers("sponge_reload_failures_total"), "setting"), "changed files refused: {{setting}}"
            ),
            Query(
                rate_of(of_servers("sponge_tls_handshake_failures_total"), "reason"),
                "handshakes failed a second: {{reason}}",
            ),
        ],
        "none",
    ),
)

_OPERATOR = (
    Panel(
        "Servers that answer",
        "1 while every server of a service answers the operator.",
        [
            Query(
                f"min by (service) ({of_operator('sponge_operator_server_reachable')})",
                "{{service}}",
            )
        ],
        "none",
        6,
        (0, 1),
    ),
    Panel(
        "Age of the servers' states",
        "Sizes are kept while a state is old. Without operator: how long a server has heard nothing of it.",
        [
            Query(f"max by (service) ({of_operator('sponge_operator_state_age_seconds')})", "{{service}}"),
            _servers("sponge_without_operator_seconds", "{{pod}} without operator", "max", "pod"),
        ],
        "s",
        6,
    ),
    Panel(
        "One look at a pod",
        "p99 of a decision, and of a look with what it caused.",
        [
            Query(quantile(0.99, "sponge_operator_tick_seconds_bucket"), "look"),
            Query(quantile(0.99, "sponge_operator_plan_seconds_bucket", "policy"), "decision, {{policy}}"),
        ],
        "s",
        6,
    ),
    Panel(
        "Lateness of event loops",
        "How late the servers run their timers.",
        _quantiles("sponge_event_loop_lag_seconds", 0.5, 0.99),
        "s",
        6,
    ),
)

ROWS = {
    "Deadlines": _DEADLINES,
    "Cores": _CORES,
    "Pods": _PODS,
    "Queue, batches and lanes": _BATCHES,
    "Fronts": _FRONTS,
    "Trouble": _TROUBLE,
    "Operator": _OPERATOR,
}
"""Title of each row -> its panels."""
