"""Fronts in the cluster, as tests ask them: their pods, a request with and without TLS, and certificates in Secrets."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from certificates_kit import Pair
from operator_kit import Kubectl, Service

__all__ = ["address", "ask", "ask_by_tls", "fronts", "put_pair"]

REQUEST = json.dumps(
    {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}]}
).encode()


def fronts(service: Service) -> list[dict[str, Any]]:
    """The fronts' pods that are not on their way out."""
    found = service.kubectl(
        "get", "pods", "-n", service.namespace, "-l", f"serving.sponge.dev/front={service.name}", "-o", "json"
    )
    return [pod for pod in json.loads(found)["items"] if "deletionTimestamp" not in pod["metadata"]]


def address(service: Service, name: str) -> str:
    """The address of a Service in the cluster."""
    found = json.loads(service.kubectl("get", "service", name, "-n", service.namespace, "-o", "json"))
    return str(found["spec"]["clusterIP"])


def ask(host: str, slo_ms: float | None = None) -> int:
    """The status of one request for inference; 0: no answer."""
    headers = {} if slo_ms is None else {"x-sponge-slo-ms": f"{slo_ms:g}"}
    return _status(f"http://{host}", headers, 20 + (slo_ms or 0) / 1000, None)


def ask_by_tls(host: str, trust: ssl.SSLContext) -> int:
    """The status of one request for inference by TLS; 0: no answer."""
    return _status(f"https://{host}", {}, 20, trust)


def _status(origin: str, headers: dict[str, str], timeout_s: float, trust: ssl.SSLContext | None) -> int:
    headers = {"content-type": "application/json"} | headers
    request = urllib.request.Request(f"{origin}:8080/v2/models/digits/infer", data=REQUEST, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s, context=trust) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def put_pair(kubectl: Kubectl, namespace: str, name: str, pair: Pair, **more: bytes) -> None:
    """Writes a Secret of type kubernetes.io/tls."""
    files = {"tls.crt": pair.cert, "tls.key": pair.key, **{key.replace("_", "."): value for key, value in more.items()}}
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: base64.b64encode(value).decode() for key, value in files.items()},
    }
    kubectl("apply", "-f", "-", document=document)
