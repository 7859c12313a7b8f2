"""Follows the pods of a Service through the EndpointSlices of the API server, with the pod's own service account.

The list that is known stays while the API server is away. Plain HTTP calls: a client of Kubernetes would take ten times
the memory of everything else here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.http_exceptions import LineTooLong

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError
from sponge_front.pods import Pod, ip_of
from sponge_system.logs import event

__all__ = ["ApiAccess", "EndpointSlices", "in_cluster", "pods_of"]

log = logging.getLogger(__name__)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

WATCH_S = 240
"""A watch ends after so long, and begins anew with a list: nothing that was missed stays so."""

SILENCE_S = 300.0

FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 5.0
"""Before the API server is asked again after a failure; doubles with each one."""

LONGEST_EVENT = 2 << 20
"""Bytes of a change, which is one line: a slice may have a thousand endpoints, and etcd takes 1.5 MiB."""

PORTS = ("http", "grpc", "control")


class ApiAccess:
    """How the API server is spoken to.

    Attributes:
        url: without a path.
        tls: trusts its certificate; None for plain HTTP.
        namespace: the one that the picker runs in.
    """

    def __init__(
        self, url: str, namespace: str, token_file: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`token_file`: read for each call, because the token is renewed every hour."""
        self.url = url
        self.namespace = namespace
        self.tls = tls
        self._token_file = token_file

    def headers(self) -> dict[str, str]:
        """The headers of a call. Raises OSError."""
        if self._token_file is None:
            return {}
        return {"authorization": f"Bearer {self._token_file.read_text().strip()}"}


def in_cluster(account: Path = ACCOUNT) -> ApiAccess:
    """The access of a pod. Raises SpongeError outside of one."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        if not host:
            raise OSError("KUBERNETES_SERVICE_HOST is not set")
        tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
        namespace = (account / "namespace").read_text().strip()
    except OSError as error:
        raise SpongeError(
            f"--service follows pods through the Kubernetes API, as a pod with a service account: {error}; "
            "outside of a cluster, give the pods with --pod"
        ) from None
    return ApiAccess(f"https://{authority(host, port)}", namespace, account / "token", tls)


def pods_of(slices: Iterable[Mapping[str, Any]]) -> list[Pod]:
    """The ready pods in EndpointSlices, by name, each once. Slices without the server's three ports have none.

    Where none is ready, those that are on their way out and serve still, as kube-proxy does. An endpoint without an IP
    address is left out, because the proxy would refuse the whole list.
    """
    found: dict[str, Pod] = {}
    leaving: dict[str, Pod] = {}
    for each in slices:
        ports = {port.get("name"): port.get("port") for port in each.get("ports") or ()}
        if not all(ports.get(name) for name in PORTS):
            continue
        for endpoint in each.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            # A condition that is not there counts as ready, as the API says.
            if conditions.get("ready") is not False:
                among = found
            elif conditions.get("serving") and conditions.get("terminating"):
                among = leaving
            else:
                continue
            for host in filter(None, map(ip_of, (endpoint.get("addresses") or ())[:1])):
                name = (endpoint.get("targetRef") or {}).get("name") or host
                among.setdefault(name, Pod(name, host, *(ports[port] for port in PORTS)))
    chosen = found or leaving
    return [chosen[name] for name in sorted(chosen)]


class EndpointSlices:
    """The EndpointSlices of one Service.

    Args:
        changed: hears of the pods, first when they are known and then whenever they are others.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        access: ApiAccess,
        namespace: str,
        service: str,
        changed: Callable[[list[Pod]], None],
    ) -> None:
        self._session = session
        self._access = access
        self._url = f"{access.url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._service = service
        self._changed = changed
        self._slices: dict[str, Mapping[str, Any]] = {}
        self._told: list[Pod] | None = None

    async def follow(self) -> None:
        """Follows until cancelled, whatever the API server does."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                version = await self._list()
                pause_s = FIRST_PAUSE_S
                await self._watch(version)
            except (aiohttp.ClientError, LineTooLong, TimeoutError, OSError, ValueError, KeyError) as error:
                why = str(error) or type(error).__name__
                event(log, "pods.not_followed", logging.WARNING, service=self._service, reason=why)
                await asyncio.sleep(pause_s)
                pause_s = min(LAST_PAUSE_S, 2 * pause_s)

    async def _list(self) -> str:
        async with self._get({}, aiohttp.ClientTimeout(total=10)) as response:
            document = await response.json()
        self._slices = {each["metadata"]["name"]: each for each in document["items"]}
        self._tell()
        return str(document["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        timeout = aiohttp.ClientTimeout(sock_connect=10, sock_read=SILENCE_S)
        async with self._get(query, timeout) as response:
            async for line in response.content:
                change = json.loads(line)
                if change["type"] == "ERROR":  # the version is too old: list again
                    return
                name = change["object"]["metadata"]["name"]
                if change["type"] == "DELETED":
                    self._slices.pop(name, None)
                else:
                    self._slices[name] = change["object"]
                self._tell()

    def _get(self, query: Mapping[str, str], timeout: aiohttp.ClientTimeout) -> Any:
        return self._session.get(
            self._url,
            params={"labelSelector": f"kubernetes.io/service-name={self._service}", **query},
            headers=self._access.headers(),
            ssl=self._access.tls or True,
            timeout=timeout,
            raise_for_status=True,
            read_bufsize=LONGEST_EVENT,
        )

    def _tell(self) -> None:
        pods = pods_of(self._slices.values())
        if pods != self._told:
            self._told = pods
            self._changed(pods)
