"""The rows of the dashboard, and the panels about pods, fronts, trouble and the operator. Plain data."""

from __future__ import annotations

from sponge_dashboards.panel import Panel, Query, quantiles, servers
from sponge_dashboards.promql import increase_of, of_fronts, of_operator, of_servers, quantile, rate_of
from sponge_dashboards.server_panels import BATCHES, CORES, DEADLINES

__all__ = ["ROWS"]

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
        "In the picker; Envoy waits for it 8 ms at most.",
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
            servers("sponge_http_connections", "{{port}}", by="port"),
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
            servers("sponge_without_operator_seconds", "{{pod}} without operator", "max", "pod"),
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
        quantiles("sponge_event_loop_lag_seconds", 0.5, 0.99),
        "s",
        6,
    ),
)

ROWS = {
    "Deadlines": DEADLINES,
    "Cores": CORES,
    "Pods": _PODS,
    "Queue, batches and lanes": BATCHES,
    "Fronts": _FRONTS,
    "Trouble": _TROUBLE,
    "Operator": _OPERATOR,
}
"""Title of each row -> its panels."""
