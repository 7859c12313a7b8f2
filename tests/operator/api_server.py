"""A small API server for tests: discovery, lists, watches, and refusals when a test wants them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from sponge_operator.clients.kube import Kube

__all__ = ["ApiServer", "api_server", "wait_for"]


GROUPS = {
    "": ("v1", ["pods", "services", "configmaps", "namespaces", "events", "serviceaccounts"]),
    "apps": ("v1", ["deployments", "replicasets"]),
    "autoscaling": ("v2", ["horizontalpodautoscalers"]),
    "rbac.authorization.k8s.io": ("v1", ["rolebindings"]),
    "policy": ("v1", ["poddisruptionbudgets"]),
    "apiextensions.k8s.io": ("v1", ["customresourcedefinitions"]),
    "serving.sponge.dev": ("v1alpha1", ["spongeservices"]),
}


class ApiServer:
    """Objects in the namespace team-a.

    Attributes:
        token: the one that is accepted.
        refuse: status of every answer; 0 for none.
        oldest: version from which a watch may go on.
        asked: lists and watches so far, as "list pods"; whatever is neither, as "PATCH /path".
    """

    def __init__(self, folder: Path) -> None:
        self._token_file = folder / "token"
        self._kubeconfig = folder / "kubeconfig"
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._streams: list[tuple[str, asyncio.Queue[dict[str, Any] | None]]] = []
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.version = 1
        self.token = "first"
        self.refuse = 0
        self.oldest = 0
        self.asked: list[str] = []
        self.write_token("first")

    def write_token(self, token: str) -> None:
        self._token_file.write_text(token)

    def put(self, kind: str, uid: str, **metadata: Any) -> None:
        self.version += 1
        known = (kind, uid) in self.objects
        labels = {"serving.sponge.dev/service": "digits", "app.kubernetes.io/managed-by": "sponge-operator"}
        given = {"name": uid, "uid": uid, "namespace": "team-a", "resourceVersion": str(self.version), "labels": labels}
        self.objects[kind, uid] = {"metadata": given | metadata, "spec": {}}
        self._tell(kind, {"type": "MODIFIED" if known else "ADDED", "object": self.objects[kind, uid]})

    def remove(self, kind: str, uid: str) -> None:
        self.version += 1
        gone = self.objects.pop((kind, uid))
        gone["metadata"]["resourceVersion"] = str(self.version)
        self._tell(kind, {"type": "DELETED", "object": gone})

    def cut(self) -> None:
        """Ends all streams."""
        for _, stream in self._streams:
            stream.put_nowait(None)

    def _tell(self, kind: str, change: dict[str, Any]) -> None:
        self._history.append((self.version, kind, change))
        for watched, stream in self._streams:
            if watched == kind:
                stream.put_nowait(change)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization", "").lower() != f"bearer {self.token}":
            return web.json_response({"message": "Unauthorized"}, status=401)
        if self.refuse:
            return web.json_response({"message": "refused"}, status=self.refuse)
        kind = request.path.rpartition("/")[2]
        if (discovery := _discovery(request.path)) is not None:
            return web.json_response(discovery)
        if request.method != "GET":
            self.asked.append(f"{request.method} {request.path}")
            return web.json_response({})
        if "watch" not in request.query:
            self.asked.append(f"list {kind}")
            items = [item for (of, _), item in self.objects.items() if of == kind]
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        if not request.query["timeoutSeconds"].isdigit():  # the real one takes integers only
            return web.json_response({"message": "timeoutSeconds: invalid syntax"}, status=400)
        self.asked.append(f"watch {kind}")
        since = int(request.query["resourceVersion"])
        if since < self.oldest:
            gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
            return web.Response(text=json.dumps(gone) + "\n")
        response, stream = web.StreamResponse(), asyncio.Queue[dict[str, Any] | None]()
        await response.prepare(request)
        for version, of, change in self._history:
            if version > since and of == kind:
                stream.put_nowait(change)
        self._streams.append((kind, stream))
        try:
            while (news := await stream.get()) is not None:
                await response.write(json.dumps(news).encode() + b"\n")
        finally:
            self._streams.remove((kind, stream))
        return response

    @asynccontextmanager
    async def kube(self, may_act: Callable[[], bool] | None = None) -> AsyncIterator[Kube]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        async with TestServer(app) as server:
            document = {
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": str(server.make_url("")).rstrip("/")}}],
                "users": [{"name": "test", "user": {"tokenFile": str(self._token_file)}}],
            }
            self._kubeconfig.write_text(json.dumps(document))
            async with Kube(self._kubeconfig, may_act) as kube:
                yield kube
                self.cut()


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/api":
        return {"versions": ["v1"]}
    if path == "/apis":
        versions = {group: {"version": version} for group, (version, _) in GROUPS.items() if group}
        return {"groups": [{"name": g, "versions": [v], "preferredVersion": v} for g, v in versions.items()]}
    for group, (version, kinds) in GROUPS.items():
        if path == (f"/apis/{group}/{version}" if group else f"/api/{version}"):
            verbs = ["get", "list", "watch", "create", "patch"]
            return {
                "resources": [
                    {
                        "name": kind,
                        "kind": kind,
                        "singularName": "",
                        "namespaced": kind not in ("namespaces", "customresourcedefinitions"),
                        "verbs": verbs,
                    }
                    for kind in kinds
                ]
            }
    return None


@asynccontextmanager
async def api_server(folder: Path) -> AsyncIterator[tuple[ApiServer, Kube]]:
    """The server, and a client that is logged in."""
    server = ApiServer(folder)
    async with server.kube() as kube:
        yield server, kube


async def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition holds; fails after 20 s."""
    clock = asyncio.get_running_loop().time
    until = clock() + 20
    while not condition():
        assert clock() < until, what
        await asyncio.sleep(0.01)
