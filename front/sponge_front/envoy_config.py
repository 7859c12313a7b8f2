"""The configuration of the proxy: Envoy's bootstrap, and the files with the pods' addresses that it watches. Pure.

Envoy asks the picker for each request, and does without it where it fails, is slow or is not there: then the pods take
turns, as behind kube-proxy. It knows the pods from files, so it keeps them while the picker is away.

A request that a pod refuses for its own load (`x-sponge-elsewhere`), or that is lost with its pod, goes to another pod
once; whether its deadline allows that is decided by that pod's admission. Each request carries the time at which its
first byte reached the proxy (`x-sponge-sent-at`), unless its client says when it was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from sponge_front.endpoint_protocol import DESTINATION, METADATA, UPSTREAM_ADDRESS
from sponge_front.envoy_tls import from_clients, to_pods
from sponge_front.pods import Pod
from sponge_front.settings import EnvoySettings

__all__ = [
    "LONGEST_WAIT_S",
    "admin_socket",
    "bootstrap",
    "endpoints",
    "endpoints_file",
    "picker_socket",
]

Protocol = Literal["http", "grpc"]
Message = dict[str, Any]

_TYPES: Final = "type.googleapis.com/envoy"

_RETRIES: Final = {
    # A pod that refuses says so in a header; one that dies says nothing. Inference can be repeated.
    "retry_on": "retriable-headers,connect-failure,refused-stream,reset",
    "retriable_headers": [{"name": "x-sponge-elsewhere"}],
    "num_retries": 1,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }
    ],
    "host_selection_retry_max_attempts": 5,
}

_CHANGES: Final = ("/v2/repository/", "/inference.GRPCInferenceService/Repository")
"""Paths of requests that change a pod. One that a pod may have begun is not sent to another."""

_RETRIES_OF_CHANGES: Final = {**_RETRIES, "retry_on": "connect-failure,refused-stream"}

_LIMITS: Final = {
    "thresholds": [
        {
            "max_connections": 10_000,
            "max_pending_requests": 10_000,
            "max_requests": 10_000,
            # Under overload every pod refuses, and asking a second one each time would only add to the load.
            "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 5},
        }
    ]
}

_LOST_PODS: Final = {
    # Refusals are answers; only a pod that does not answer at all is left out.
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_local_origin_success_rate": 0,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "5s",
    "max_ejection_percent": 50,
}

_LARGEST_REPEATED: Final = 1 << 20
"""Bytes of a request that are kept until its answer begins, so that another pod can have it. A larger one is passed on
without that: hundreds that wait at once would take more memory than the proxy has."""

LONGEST_WAIT_S: Final = 600.0
"""How long a request waits for the first pod of its service at most, whatever its deadline."""

_LONGEST: Final = "3600s"
"""The longest deadline that a server accepts."""


def picker_socket(directory: Path) -> Path:
    """The socket on which the picker serves the proxy beside it."""
    return directory / "picker.sock"


def admin_socket(directory: Path) -> Path:
    """The socket of Envoy's administration."""
    return directory / "admin.sock"


def endpoints_file(directory: Path, protocol: Protocol) -> Path:
    """The file with the pods' addresses."""
    return directory / f"{protocol}-endpoints.json"


def endpoints(protocol: Protocol, pods: Iterable[Pod]) -> Message:
    """The content of `endpoints_file`."""
    addresses = [(pod.host, pod.http_port if protocol == "http" else pod.grpc_port) for pod in pods]
    found = [{"endpoint": {"address": _address(host, port)}} for host, port in addresses]
    assignment = {
        "@type": f"{_TYPES}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": f"pods-{protocol}",
        "endpoints": [{"lb_endpoints": found}],
    }
    return {"resources": [assignment]}


def bootstrap(settings: EnvoySettings) -> Message:
    """Envoy's bootstrap, for `envoy --config-path`. The files of `endpoints_file` must exist before it starts."""
    directory = settings.directory
    return {
        "node": {"id": "sponge-front", "cluster": "sponge-front"},
        "admin": {"address": {"pipe": {"path": str(admin_socket(directory)), "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                _listener(settings, "http", settings.http_port),
                _listener(settings, "grpc", settings.grpc_port),
                _status_listener(settings),
            ],
            "clusters": [
                _pods_cluster(settings, "http"),
                _pods_cluster(settings, "grpc"),
                _picker_cluster(directory),
                _cluster("admin", {"pipe": {"path": str(admin_socket(directory))}}),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 10_000,
                    },
                }
            ]
        },
    }


def _listener(settings: EnvoySettings, protocol: Protocol, port: int) -> Message:
    sent_at = {"key": "x-sponge-sent-at", "value": "%START_TIME(%s.%6f)%"}
    routes = {
        "request_headers_to_add": [{"header": sent_at, "append_action": "ADD_IF_ABSENT"}],
        "virtual_hosts": [
            {
                "name": "pods",
                "domains": ["*"],
                "include_request_attempt_count": True,
                "request_body_buffer_limit": _LARGEST_REPEATED,
                "routes": [
                    *(_route(protocol, prefix, _RETRIES_OF_CHANGES) for prefix in _CHANGES),
                    _route(protocol, "/", _RETRIES),
                ],
            }
        ],
    }
    filters = [
        {"name": "envoy.filters.http.ext_proc", "typed_config": _picking(settings)},
        {
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": True,
            },
        },
    ]
    more = {
        "use_remote_address": True,
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "stream_idle_timeout": _LONGEST,
        "request_headers_timeout": "10s",
        # The servers take it too.
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "pods"},
    }
    tls = settings.tls
    transport = {} if tls is None else from_clients(settings.directory, ask=tls.client_ca is not None)
    return _web(protocol, settings.host, port, routes, filters, [transport], more)


def _route(protocol: Protocol, prefix: str, retries: Message) -> Message:
    # Deadlines are the pods' business, whatever the client states them in.
    route = {"cluster": f"pods-{protocol}", "timeout": "0s", "retry_policy": retries}
    return {"match": {"prefix": prefix}, "route": route}


def _status_listener(settings: EnvoySettings) -> Message:
    """For probes and Prometheus: two paths of the administration, which is not open otherwise; with TLS by both."""
    routes = {
        "virtual_hosts": [
            {
                "name": "status",
                "domains": ["*"],
                "routes": [
                    {"match": {"path": path}, "route": {"cluster": "admin"}} for path in ("/ready", "/stats/prometheus")
                ],
            }
        ]
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"},
    }
    transports: list[Message] = [{}]
    if settings.tls is not None:
        # The proxy itself counts as ready without a certificate that it can use, so the kubelet asks by TLS.
        by_tls = {"filter_chain_match": {"transport_protocol": "tls"}}
        transports.append({**from_clients(settings.directory, ask=False), **by_tls})
    return _web("status", settings.host, settings.status_port, routes, [router], transports)


def _web(
    name: str,
    host: str,
    port: int,
    routes: Message,
    filters: list[Message],
    transports: list[Message],
    more: Mapping[str, object] | None = None,
) -> Message:
    """A listener. `transports`: how it may be spoken to, as parts of a filter chain; `{}` is plain text."""
    manager = {
        "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"name": name, **routes},
        "http_filters": filters,
        **(more or {}),
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    tells_tls = {
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": f"{_TYPES}.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
    }
    return {
        "name": name,
        "address": _address(host, port, {"ipv4_compat": True} if host == "::" else {}),
        **({"listener_filters": [tells_tls]} if len(transports) > 1 else {}),
        "filter_chains": [{**chain, **transport} for transport in transports],
    }


def _picking(settings: EnvoySettings) -> Message:
    return {
        "@type": f"{_TYPES}.extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "failure_mode_allow": True,
        "message_timeout": _seconds(settings.pick_timeout_s),
        # Where there is no pod, the picker asks for one, and says how long that takes.
        "max_message_timeout": _seconds(LONGEST_WAIT_S + 10),
        "processing_mode": {
            "request_header_mode": "SEND",
            "response_header_mode": "SEND",
            "request_body_mode": "NONE",
            "response_body_mode": "NONE",
            "request_trailer_mode": "SKIP",
            "response_trailer_mode": "SKIP",
        },
        "response_attributes": [UPSTREAM_ADDRESS],
        "metadata_options": {"receiving_namespaces": {"untyped": [METADATA]}},
    }


def _pods_cluster(settings: EnvoySettings, protocol: Protocol) -> Message:
    directory = settings.directory
    tls = {} if settings.pods_tls is None else to_pods(directory, "http/1.1" if protocol == "http" else "h2")
    file = endpoints_file(directory, protocol)
    source = {"path": str(file), "watched_directory": {"path": str(directory)}}
    in_turn = _policy("round_robin", f"{_TYPES}.extensions.load_balancing_policies.round_robin.v3.RoundRobin")
    # Metadata, which only the picker writes; the header of the same name is for gateways that read that.
    picked = {"metadata": {"key": METADATA, "path": [{"key": DESTINATION}]}}
    as_picked = _policy(
        "override_host",
        f"{_TYPES}.extensions.load_balancing_policies.override_host.v3.OverrideHost",
        {"override_host_sources": [picked], "fallback_policy": {"policies": [in_turn]}},
    )
    check: Message = {"http_health_check": {"path": "/v2/health/ready"}} if protocol == "http" else {}
    return {
        "name": f"pods-{protocol}",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"resource_api_version": "V3", "path_config_source": source}},
        "connect_timeout": "0.5s",
        "load_balancing_policy": {"policies": [as_picked]},
        **tls,
        "circuit_breakers": _LIMITS,
        "outlier_detection": _LOST_PODS,
        # One that is gone would stay for as long as something with its address answers. Requests under way end there.
        "ignore_health_on_host_removal": True,
        # A pod that hangs, where there is no picker to see it; a throttled pod answers late.
        "health_checks": [
            {
                "timeout": "3s",
                "interval": "2s",
                "no_traffic_interval": "5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                **(check or {"grpc_health_check": {}}),
            }
        ],
        # Shorter than the server's keep-alive, so that no request meets a connection that is being closed.
        **_protocol("http_protocol_options" if protocol == "http" else "http2_protocol_options", idle="60s"),
    }


def _picker_cluster(directory: Path) -> Message:
    return {
        **_cluster("picker", {"pipe": {"path": str(picker_socket(directory))}}),
        **_protocol("http2_protocol_options"),
        # Once the picker is known to hang or to be away, no request waits for it.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "grpc_health_check": {},
            }
        ],
    }


def _cluster(name: str, address: Message) -> Message:
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _protocol(options: str, idle: str = _LONGEST) -> Message:
    kind = f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": kind,
                "common_http_protocol_options": {"idle_timeout": idle},
                "explicit_http_config": {options: {}},
            }
        }
    }


def _policy(name: str, kind: str, config: Message | None = None) -> Message:
    typed = {"@type": kind, **(config or {})}
    return {"typed_extension_config": {"name": f"envoy.load_balancing_policies.{name}", "typed_config": typed}}


def _address(host: str, port: int, more: Message | None = None) -> Message:
    return {"socket_address": {"address": host, "port_value": port, **(more or {})}}


def _seconds(value_s: float) -> str:
    return f"{value_s:.6f}".rstrip("0").rstrip(".") + "s"
