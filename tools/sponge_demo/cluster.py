"""The demo on Kubernetes: the local cluster, the chart, and one SpongeService whose pod serves every run.

A fixed size is the same pod in mode Off, resized in place once; Sponge's run is the same pod in mode Auto. The cluster
is reached through kubectl, the pod by its address, or through a port-forward where that is not routed (kind).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sponge_cluster import DEFAULT_NAME, Cluster, binaries, down, status, up
from sponge_cluster.chart import install_operator
from sponge_core.addresses import authority
from sponge_core.latency import LatencyModel
from sponge_core.quantities import cpu_quantity
from sponge_core.resource_names import GROUP, KIND, VERSION
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.control import ReportedTarget, fix_size
from sponge_demo.profiles import profile_in
from sponge_demo.progress import Phase
from sponge_demo.scenario import Scenario
from sponge_operator.clients.server import ControlClient
from sponge_operator.resources.manifests import (
    CONTAINER,
    CONTROL_PORT,
    DEFAULT_STARTUP_MILLI,
    HTTP_PORT,
    SERVICE_LABEL,
    resize_patch,
)

__all__ = ["ClusterBackend", "manifest"]

NAMESPACE = "sponge-demo"
NAME = "demo"
SELECTOR = f"{SERVICE_LABEL}={NAME}"
READY_WITHIN_S = 300.0
MODE_WITHIN_S = 30.0
GONE_WITHIN_S = 120.0
REACH_S = 2.0
LOOK_S = 0.5

CLUSTER, OPERATOR = Phase("Starting Kubernetes", 15.0), Phase("Installing the operator", 12.0)
BUILD_S = 25 * 60.0
"""The first time on a machine, Kubernetes is built from its sources."""


class _Steps:
    """Passes the cluster's progress on to the demo."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, text: str) -> None:
        self._say(f"Cluster: {text}")

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        self.say(text)
        yield


class ClusterBackend(Backend):
    """Uses a cluster that runs already and leaves it running; one that it starts itself is taken down at the end.

    Args:
        template: a partial pod template for the server.
    """

    start_s = 35.0
    close_s = 8.0

    def __init__(self, template: Mapping[str, Any] | None = None) -> None:
        self._template = template
        self._cluster: Cluster | None = None
        self._is_ours = False
        self._pod = ""
        self._mode = "Off"
        self._forward: subprocess.Popen[str] | None = None
        self._scenario: Scenario | None = None
        self._endpoint: Endpoint | None = None

    @property
    def description(self) -> str:
        if self._cluster is None:
            return "a local Kubernetes"
        return f"a real Kubernetes on this machine ({self._cluster.backend}), sized by the operator through pods/resize"

    @property
    def opening(self) -> tuple[Phase, ...]:
        built = (binaries.MODULE.cache_folder / "kubelet").exists() or shutil.which("docker") is not None
        return CLUSTER if built else Phase(CLUSTER.name, BUILD_S), OPERATOR

    def open(self, say: Say, enter: Say) -> None:
        enter(CLUSTER.name)
        self._is_ours = status(DEFAULT_NAME).state == "stopped"
        self._cluster = up(DEFAULT_NAME, progress=_Steps(say))
        enter(OPERATOR.name)
        install_operator(self._cluster)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self._kubectl("apply", "-f", "-", stdin=json.dumps(namespace))

    async def start(self, scenario: Scenario) -> Endpoint:
        self._scenario, self._mode = scenario, "Off"
        # In the foreground: children that are still being collected would be taken from the next service of that name.
        await asyncio.to_thread(
            self._kubectl,
            *("delete", "-n", NAMESPACE, "spongeservice", NAME, "--ignore-not-found", "--cascade=foreground"),
            f"--timeout={GONE_WITHIN_S:g}s",
        )
        document = json.dumps(manifest(scenario, self._template))
        await asyncio.to_thread(self._kubectl, "apply", "-n", NAMESPACE, "-f", "-", stdin=document)
        pod = await self._ready_pod()
        self._pod = pod["metadata"]["name"]
        address = await asyncio.to_thread(self._reach, pod["status"]["podIP"])
        secret = await asyncio.to_thread(self._get, "secret", f"{NAME}-sponge-control")
        token = base64.b64decode(secret["data"]["token"]).decode()
        self._endpoint = Endpoint(address[0], address[1], token)
        return self._endpoint

    async def profile(self) -> LatencyModel:
        return profile_in(await asyncio.to_thread(self._kubectl, "logs", "-n", NAMESPACE, self._pod))

    async def hold(self, milli: int) -> None:
        assert self._endpoint is not None
        assert self._scenario is not None
        if self._mode != "Off":
            await self._set_mode("Off")
        async with ControlClient() as client:
            target = ReportedTarget(client, self._endpoint, DEFAULT_STARTUP_MILLI, self._resize)
            await fix_size(client, target, self._scenario, milli)

    async def release(self) -> None:
        await self._set_mode("Auto")

    async def facts(self) -> PodFacts:
        pod = await asyncio.to_thread(self._get, "pod", self._pod)
        restarts = sum(container["restartCount"] for container in pod["status"]["containerStatuses"])
        # Only a resize changes the spec of a pod, and each change raises the generation by one.
        return PodFacts(resizes=pod["metadata"]["generation"], restarts=restarts)

    async def stop(self) -> None:
        if self._forward is not None:
            self._forward.terminate()
            await asyncio.to_thread(self._forward.wait)
            self._forward = None

    def close(self) -> None:
        if self._cluster is None:
            return
        if self._is_ours:
            down(DEFAULT_NAME)
        else:
            self._kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", f"--timeout={GONE_WITHIN_S:g}s")
        self._cluster = None

    async def _ready_pod(self) -> dict[str, Any]:
        end = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end:
            pods = (await asyncio.to_thread(self._get, "pods", "-l", SELECTOR))["items"]
            for pod in pods:
                conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", ())}
                if conditions.get("Ready") == "True":
                    return dict(pod)
            await asyncio.sleep(LOOK_S)
        service = await asyncio.to_thread(self._get, "spongeservice", NAME)
        reasons = [c["message"] for c in service.get("status", {}).get("conditions", ()) if c["status"] != "True"]
        raise DemoError(
            f"the SpongeService is not ready after {READY_WITHIN_S:g} s: {'; '.join(reasons) or 'no reason given'}"
        )

    async def _set_mode(self, mode: str) -> None:
        """Changes the service's mode, and waits until the operator has followed."""
        await asyncio.to_thread(self._patch, "spongeservice", NAME, {"spec": {"mode": mode}}, "--type=merge")
        self._mode = mode
        end = time.monotonic() + MODE_WITHIN_S
        while time.monotonic() < end:
            service = await asyncio.to_thread(self._get, "spongeservice", NAME)
            if service.get("status", {}).get("observedGeneration") == service["metadata"]["generation"]:
                return
            await asyncio.sleep(LOOK_S)
        raise DemoError(f"the operator has not taken mode {mode} after {MODE_WITHIN_S:g} s")

    async def _resize(self, milli: int) -> None:
        """Resizes the pod in place."""
        patch = resize_patch(CONTAINER, milli)
        await asyncio.to_thread(self._patch, "pod", self._pod, patch, "--subresource=resize")

    def _reach(self, address: str) -> tuple[str, str]:
        """The pod's data and control URLs, as they are reached from this machine."""
        with contextlib.suppress(OSError), socket.create_connection((address, CONTROL_PORT), timeout=REACH_S):
            return f"http://{authority(address, HTTP_PORT)}", f"http://{authority(address, CONTROL_PORT)}"
        command = self._command("port-forward", "-n", NAMESPACE, self._pod, f":{HTTP_PORT}", f":{CONTROL_PORT}")
        self._forward = subprocess.Popen(
            command, env=self._environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._forward.stdout is not None
        ports: dict[int, str] = {}
        for line in self._forward.stdout:
            found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", line)
            if found:
                ports[int(found[2])] = found[1]
            if len(ports) == 2:
                return f"http://127.0.0.1:{ports[HTTP_PORT]}", f"http://127.0.0.1:{ports[CONTROL_PORT]}"
        raise DemoError(f"pod {self._pod} at {address} cannot be reached, nor forwarded by kubectl")

    def _get(self, *what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._kubectl("get", "-n", NAMESPACE, *what, "-o", "json"))
        return found

    def _patch(self, kind: str, name: str, patch: Mapping[str, Any], *options: str) -> None:
        self._kubectl("patch", "-n", NAMESPACE, kind, name, *options, "-p", json.dumps(patch))

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            self._command(*arguments), env=self._environment(), input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"kubectl {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _command(self, *arguments: str) -> list[str]:
        assert self._cluster is not None
        return [str(self._cluster.kubectl), *arguments]

    def _environment(self) -> dict[str, str]:
        assert self._cluster is not None
        return {**os.environ, "KUBECONFIG": str(self._cluster.kubeconfig)}


def manifest(scenario: Scenario, template: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The SpongeService of a demo, in mode Off until Sponge may size it.

    Args:
        template: a partial pod template for the server.
    """
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": NAME},
        "spec": {
            "model": {"name": scenario.model, "source": scenario.source},
            "slo": {"latency": f"{scenario.slo_s * 1000:g}ms", "target": scenario.target * 100},
            "cpu": {
                "min": cpu_quantity(scenario.min_milli),
                "max": cpu_quantity(scenario.max_milli),
                "step": cpu_quantity(scenario.step_milli),
            },
            "batch": {"max": scenario.max_batch},
            "profile": {"from": scenario.profile},
            "planner": {"lookBack": f"{scenario.look_back_s:g}s"},
            "mode": "Off",
            "template": template or {},
        },
    }
