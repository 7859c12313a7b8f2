"""Reads from an API server without a client library: its readiness, and single objects.

Only the start of a cluster and `status` use it; everything else goes through kubectl or a real client.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Api", "node_is_ready"]


class Api:
    """GET requests with a client certificate; `pki` holds ca.crt, admin.crt and admin.key."""

    def __init__(self, server: str, pki: Path, timeout_s: float = 3.0) -> None:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        # A proxy of the user's environment cannot reach the bridge.
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        self._opener = urllib.request.build_opener(*handlers)
        self._server, self._timeout_s = server, timeout_s

    def get(self, path: str) -> bytes | None:
        """The body of a 200 answer; None for any other answer, or without one."""
        try:
            with self._opener.open(self._server + path, timeout=self._timeout_s) as answer:
                body: bytes = answer.read()
                return body
        except (urllib.error.URLError, OSError):
            return None

    def ready(self) -> bool:
        """Whether the API server reports that it is ready."""
        return self.get("/readyz") is not None

    def node_ready(self, node: str) -> bool:
        """Whether the node exists and is Ready."""
        body = self.get(f"/api/v1/nodes/{node}")
        return body is not None and node_is_ready(json.loads(body))

    def has_default_account(self) -> bool:
        """Whether the `default` namespace has its service account. Without it, the API server refuses pods."""
        return self.get("/api/v1/namespaces/default/serviceaccounts/default") is not None


def node_is_ready(node: Mapping[str, Any]) -> bool:
    """Whether a Node object's Ready condition is True and no not-ready taint keeps pods away."""
    conditions = node.get("status", {}).get("conditions", [])
    tainted = any(t["key"] == "node.kubernetes.io/not-ready" for t in node.get("spec", {}).get("taints", []))
    return not tainted and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
