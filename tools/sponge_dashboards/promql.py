"""Builds the PromQL expressions of the panels.

Grafana fills in $namespace and $service. A server's series carry the namespace and the pod that Prometheus scraped; the
operator's carry namespace, service and pod of what they are about.
"""

from __future__ import annotations

__all__ = [
    "attainment",
    "burn_rate",
    "increase_of",
    "mean",
    "of_fronts",
    "of_operator",
    "of_servers",
    "quantile",
    "rate_of",
]

_INTERVAL = "$__rate_interval"
# A Deployment's pods: its name, the ReplicaSet's hash, five characters. So `web` does not take the pods of `web-big`.
_PODS = 'namespace=~"$namespace", pod=~"($service)-[a-z0-9]+-[a-z0-9]{5}"'
_FRONTS = 'namespace=~"$namespace", pod=~"($service)-(front|picker)-[a-z0-9]+-[a-z0-9]{5}"'
_SERVICES = 'namespace=~"$namespace", service=~"$service"'
_MISSED = 'outcome!="in_time"'
# The operator knows the service of each pod, whatever the pod is called.
_SERVICE_OF_POD = f"max by (namespace, service, pod) (sponge_operator_server_reachable{{{_SERVICES}}} >= bool 0)"


def of_servers(name: str, more: str = "") -> str:
    """A series of the chosen services' servers; `more` are further label matchers."""
    return f"{name}{{{_PODS}{', ' + more if more else ''}}}"


def of_fronts(name: str, more: str = "") -> str:
    """A series of the fronts of the chosen services; `more` are further label matchers."""
    return f"{name}{{{_FRONTS}{', ' + more if more else ''}}}"


def of_operator(name: str) -> str:
    """A series of the operator about the chosen services."""
    return f"{name}{{{_SERVICES}}}"


def rate_of(series: str, by: str = "", interval: str = _INTERVAL) -> str:
    """The sum of the rates a second of a counter, by the given labels."""
    return f"sum{_by(by)} (rate({series}[{interval}]))"


def increase_of(series: str, by: str = "") -> str:
    """The sum of the increases of a counter within the panel's interval."""
    return f"sum{_by(by)} (increase({series}[{_INTERVAL}]))"


def mean(histogram: str) -> str:
    """The mean of what a server's histogram observed."""
    return f"{rate_of(of_servers(histogram + '_sum'))} / {rate_of(of_servers(histogram + '_count'))}"


def quantile(q: float, buckets: str, by: str = "") -> str:
    """A quantile of a histogram; `buckets` is its series of that name, with its matchers."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {rate_of(buckets, labels)})"


def attainment(by: str = "", interval: str = _INTERVAL) -> str:
    """Requests in time / all requests."""

    def requests(more: str) -> str:
        return rate_of(of_servers("sponge_requests_total", more), by, interval)

    return f"1 - {_missed_share(requests(_MISSED), requests(''))}"


def burn_rate(window: str) -> str:
    """How many times faster than its SLO allows a service uses up its error budget; 1 is what the target allows."""

    def requests(more: str) -> str:
        rates = rate_of(of_servers("sponge_requests_total", more), "namespace, pod", window)
        return f"sum by (namespace, service) ({rates} * on (namespace, pod) group_left (service) {_SERVICE_OF_POD})"

    target = f"max by (namespace, service) ({of_operator('sponge_operator_slo_target_ratio')})"
    return f"{_missed_share(requests(_MISSED), requests(''))} / (1 - {target})"


def _missed_share(missed: str, total: str) -> str:
    # Before the first miss there is no series of misses.
    return f"({missed} or {total} * 0) / {total}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
