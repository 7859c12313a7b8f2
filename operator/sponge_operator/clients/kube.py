"""The operator's calls to the Kubernetes API, with plain dictionaries in and out.

The generated models are not used, because a pod is read many times a second and only a few fields matter. A refusal is
raised as `ApiError` with the server's Status object.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import aiohttp
from kubernetes.aio import client, config

from sponge_core.errors import SpongeError
from sponge_core.resource_names import GROUP, PLURAL, VERSION
from sponge_operator.resources.manifests import resize_patch

__all__ = ["FIELD_MANAGER", "ApiError", "Kube", "collection_path", "lean"]

FIELD_MANAGER = "sponge-operator"
REQUEST_TIMEOUT_S = 10.0
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
CONNECTIONS = 24
"""To the API server at once; each takes 256 KiB, and a call some ten milliseconds. Watches have their own."""

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

_PATHS = {
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{namespace}/replicasets",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "Lease": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "SpongeService": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
    "VerticalPodAutoscaler": "/apis/autoscaling.k8s.io/v1/namespaces/{namespace}/verticalpodautoscalers",
}


class ApiError(Exception):
    """The API server refused a call or did not answer.

    Attributes:
        status: HTTP status; 0 for no response.
        body: the Status object.
        retry_after_s: the header Retry-After; None if there is none.
    """

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        super().__init__(body.get("message") or f"HTTP {status}")
        self.status = status
        self.body = body
        self.retry_after_s = retry_after_s


class Kube:
    """A connection to the API server; use as an async context manager.

    Args:
        kubeconfig: credentials; None uses the pod's ServiceAccount, or outside of a cluster kubectl's default file.
        may_act: asked before each change; if it says no, the call fails. None: always.
    """

    def __init__(self, kubeconfig: Path | None = None, may_act: Callable[[], bool] | None = None) -> None:
        self._kubeconfig = str(kubeconfig) if kubeconfig else None
        self._may_act = may_act
        self._client: client.ApiClient | None = None

    async def __aenter__(self) -> Kube:
        configuration = client.Configuration()
        await self._log_in(configuration)
        configuration.connection_pool_maxsize = CONNECTIONS
        self._client = client.ApiClient(configuration)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _log_in(self, configuration: client.Configuration) -> None:
        """Reads the credentials. Raises SpongeError."""
        try:
            if self._kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(self._kubeconfig, client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            raise SpongeError(
                f"no Kubernetes cluster to connect to: {error}; set KUBECONFIG to the file of your cluster"
            ) from None

    async def check_crd(self) -> None:
        """Raises SpongeError if the API server does not answer or does not know the kind SpongeService."""
        try:
            resources = (await self._call("GET", f"/apis/{GROUP}/{VERSION}"))["resources"]
        except ApiError as error:
            if error.status != 404:
                raise SpongeError(f"the Kubernetes cluster cannot be used: {error}") from None
            resources = []
        if not any(resource["name"] == PLURAL for resource in resources):
            raise SpongeError(f"the cluster has no {PLURAL}.{GROUP}; kubectl apply -f crds/spongeservice.yaml")

    async def core_resources(self) -> set[str]:
        """Names of the resources of the core API, with their subresources. Raises ApiError."""
        return {str(resource["name"]) for resource in (await self._call("GET", "/api/v1"))["resources"]}

    async def may(self, verb: str, resource: str, group: str, namespace: str) -> bool:
        """Whether the operator has a right. Raises ApiError.

        Args:
            resource: with its subresource, such as "pods/resize".
            namespace: empty for all.
        """
        name, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "resource": name, "subresource": subresource, "group": group}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, "namespace": namespace}},
        }
        answer = await self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or None if there is none. Raises ApiError."""
        try:
            return await self._call("GET", f"{collection_path(kind, namespace)}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list(self, kind: str, namespace: str | None) -> list[dict[str, Any]]:
        """All objects of a kind; empty if the cluster does not know the kind. Raises ApiError.

        Args:
            namespace: None for all.
        """
        try:
            answer = await self._call("GET", collection_path(kind, namespace))
        except ApiError as error:
            if error.status == 404:
                return []
            raise
        items: list[dict[str, Any]] = answer["items"]
        return items

    async def open_session(self, trace: aiohttp.TraceConfig) -> tuple[str, aiohttp.ClientSession]:
        """The API server's address, and a session of the caller's own, which logs in anew when it has to."""
        if self._client is None:
            raise RuntimeError("Kube is used outside of its context")
        configuration = self._client.configuration

        async def authorised(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
            for is_last in (False, True):
                if (token := await configuration.get_api_key_with_prefix("BearerToken")) is not None:
                    request.headers["Authorization"] = token
                response = await send(request)
                if response.status != 401 or is_last:
                    break
                response.close()
                with contextlib.suppress(SpongeError):
                    await self._log_in(configuration)
            return response

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._client.rest_client.ssl_context),
            middlewares=[authorised],
            trace_configs=[trace],
            trust_env=True,
        )
        return configuration.host, session

    async def pods_on(self, node: str) -> Sequence[Mapping[str, Any]]:
        """The pods of all namespaces that are bound to a node. Raises ApiError."""
        # Version 0 reads from the API server's cache; any answer is a moment old anyway.
        query = {"fieldSelector": f"spec.nodeName={node}", "resourceVersion": "0"}
        items: Sequence[Mapping[str, Any]] = (await self._call("GET", "/api/v1/pods", query=query))["items"]
        return items

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Server-side apply; takes back fields that others have changed. Raises ApiError."""
        metadata = manifest["metadata"]
        path = f"{collection_path(manifest['kind'], metadata['namespace'])}/{metadata['name']}"
        return await self._call("PATCH", path, manifest, APPLY, {"fieldManager": FIELD_MANAGER, "force": "true"})

    async def resize(
        self, pod: Mapping[str, Any], container: str, milli: int | None, memory: int | None = None
    ) -> dict[str, Any]:
        """Requests a size, for request and limit alike; returns the patched pod. Raises ApiError.

        Args:
            milli: of CPU; None keeps it.
            memory: in bytes; None keeps it.

        The patch carries the uid, so the API server refuses it with 422 if another pod has taken the name.
        """
        metadata = pod["metadata"]
        patch = {"metadata": {"uid": metadata["uid"]}, **resize_patch(container, milli, memory)}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/resize"
        return await self._call("PATCH", path, patch, STRATEGIC, {"fieldManager": FIELD_MANAGER})

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Creates the object. Raises ApiError."""
        path = collection_path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self._call("POST", path, manifest)

    async def merge(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """JSON merge patch; with a resourceVersion in it, only if the object still has that one. Raises ApiError."""
        return await self._call("PATCH", f"{collection_path(kind, namespace)}/{name}", patch, MERGE)

    async def delete(self, kind: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Deletes the object if it exists; does not wait for its end. Raises ApiError.

        Args:
            uid: only the object with this one, whatever has taken its name; None: any.
        """
        only = None if uid is None else {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", f"{collection_path(kind, namespace)}/{name}", only)
        except ApiError as error:
            if error.status != 404:
                raise

    async def write_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Merges `status` into the status of a SpongeService; null removes a field. Raises ApiError."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}/status"
        await self._call("PATCH", path, {"status": status}, MERGE, {"fieldManager": FIELD_MANAGER})

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        response = await self._send(method, path, body, content_type, query)
        try:
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _silent(error) from None
        answer = _parsed(text)
        if response.status >= 400:
            wait = response.headers.get("Retry-After", "")
            raise ApiError(response.status, answer, float(wait) if wait.isdigit() else None)
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """The beginning of the response. Raises ApiError if there is none."""
        if self._client is None:
            raise RuntimeError("Kube is used outside of its context")
        if method != "GET" and self._may_act is not None and not self._may_act():
            raise ApiError(0, {"message": "this operator no longer leads"})
        for is_last in (False, True):
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": JSON, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            try:
                response = (await self._client.call_api(*request, _request_timeout=REQUEST_TIMEOUT)).response
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                raise _silent(error) from None
            if response.status != 401 or is_last:
                break
            # Tokens expire and are replaced in their file; the client by itself reads it only once a minute.
            response.close()
            try:
                await self._log_in(self._client.configuration)
            except SpongeError as error:
                raise ApiError(401, {"message": str(error)}) from None
        return cast(aiohttp.ClientResponse, response)


def collection_path(kind: str, namespace: str | None) -> str:
    """The path of the objects of a kind in a namespace, or with None in all of them."""
    if namespace is None:
        return _PATHS[kind].replace("/namespaces/{namespace}", "")
    return _PATHS[kind].format(namespace=namespace)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")[:200]}
    return lean(answer) if "metadata" in answer else answer


def lean(found: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the record of who has set which field: nobody here reads it, and it is as large as the rest."""
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": metadata}


def _silent(error: Exception) -> ApiError:
    return ApiError(0, {"message": f"the API server does not answer: {error or type(error).__name__}"})
