"""The panels about servers: deadlines, cores, queue and batches. Plain data."""

from __future__ import annotations

from sponge_dashboards.panel import Panel, Query, quantiles, servers
from sponge_dashboards.promql import (
    attainment,
    burn_rate,
    increase_of,
    mean,
    of_operator,
    of_servers,
    quantile,
    rate_of,
)

__all__ = ["BATCHES", "CORES", "DEADLINES"]

DEADLINES = (
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
        quantiles("sponge_request_latency_seconds", 0.5, 0.95, 0.99),
        "s",
    ),
    Panel(
        "Slack at dispatch",
        "Deadline minus time of dispatch. Below the time of a batch, the deadline is missed.",
        quantiles("sponge_slack_at_dispatch_seconds", 0.01, 0.1, 0.5),
        "s",
        limits=(None, None),
    ),
)

CORES = (
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
            servers("sponge_cpu_quota_cores", "quota"),
            Query(rate_of(of_servers("process_cpu_seconds_total")), "HTTP process"),
            servers("sponge_core_compiled", "1: decisions run compiled", "min"),
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

BATCHES = (
    Panel(
        "Queue",
        "Rows that wait, requests whose body is on its way, and places that more urgent requests took.",
        [
            servers("sponge_queue_length", "waiting"),
            servers("sponge_uploads_in_flight", "uploading"),
            Query(rate_of(of_servers("sponge_queue_displaced_total")), "places lost a second"),
        ],
    ),
    Panel("Time in the queue", "From arrival to dispatch.", quantiles("sponge_queue_seconds", 0.5, 0.99), "s"),
    Panel(
        "Batch size",
        "The mean, and the largest that the planner allows.",
        [Query(mean("sponge_batch_size"), "mean"), servers("sponge_batch_cap", "cap", "max")],
    ),
    Panel("Time of a batch", "In its lane.", quantiles("sponge_batch_seconds", 0.5, 0.95, 0.99), "s"),
    Panel(
        "Prediction error",
        "Measured over predicted work of a batch; 1 is right.",
        quantiles("sponge_latency_prediction_ratio", 0.05, 0.5, 0.95),
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
        [servers("sponge_profile_drifted", "{{pod}}", "max", "pod")],
        "none",
    ),
    Panel(
        "Threads",
        "Of the running batches, and how many may run at once.",
        [
            servers("sponge_threads_running", "running"),
            servers("sponge_thread_budget", "budget"),
            Query(mean("sponge_batch_threads"), "mean of a batch"),
        ],
        "none",
    ),
    Panel(
        "Lanes",
        "Inference workers of all pods, and batches lost to lanes that died or hung.",
        [
            servers("sponge_lanes", "lanes"),
            servers("sponge_lanes_healthy", "healthy"),
            servers("sponge_lanes_running", "running"),
            Query(increase_of(of_servers("sponge_lane_crashes_total"), "model"), "{{model}}: batches lost"),
        ],
        "none",
    ),
    Panel(
        "Memory",
        "Limit of a pod, what a server measured at its start, and the account of requests.",
        [
            servers("sponge_memory_limit_bytes", "limit", "min", more=" > 0"),
            servers("sponge_memory_bytes", "{{part}}, at start", "max", "part"),
            servers("process_resident_memory_bytes", "HTTP process", "max"),
            servers("sponge_request_bytes", "requests", "max"),
            servers("sponge_request_bytes_limit", "requests, at most", "min"),
        ],
        "bytes",
    ),
)
