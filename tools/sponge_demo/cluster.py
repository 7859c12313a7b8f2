"""The demo on Kubernetes: the local cluster, the chart, and one SpongeService per run.

A fixed size is the same SpongeService in mode Off whose range is that one size. Talks to the cluster through kubectl,
and to the pod by its address, or through a port-forward where that cannot be reached from here (kind).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sponge_cluster import DEFAULT_NAME, Cluster, down, status, up
from sponge_cluster.chart import install_operator
from sponge_demo.backend import Backend, DemoError, Endpoint, PodFacts, Say
from sponge_demo.scenario import Scenario

__all__ = ["ClusterBackend", "manifest"]

NAMESPACE = "sponge-demo"
NAME = "demo"
SELECTOR = f"serving.sponge.dev/service={NAME}"
HTTP_PORT, CONTROL_PORT = 8080, 9090
READY_WITHIN_S = 300.0
GONE_WITHIN_S = 120.0
REACH_S = 2.0


class _Steps:
    """The cluster's progress, told as the demo tells its own."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, text: str) -> None:
        self._say(f"Cluster: {text}")

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        self.say(text)
        yield


class ClusterBackend(Backend):
    """A cluster that runs already is used and left; one that was started for the demo is taken down again.

    `template`: a partial pod template for the servers.
    """

    def __init__(self, template: Mapping[str, Any] | None = None) -> None:
        self._template = template
        self._cluster: Cluster | None = None
        self._is_ours = False
        self._pod = ""
        self._forward: subprocess.Popen[str] | None = None

    @property
    def description(self) -> str:
        if self._cluster is None:
            return "a local Kubernetes"
        return f"a real Kubernetes on this machine ({self._cluster.backend}), sized by the operator through pods/resize"

    def open(self, say: Say) -> None:
        self._is_ours = status(DEFAULT_NAME).state == "stopped"
        self._cluster = up(DEFAULT_NAME, progress=_Steps(say))
        say("Installing the operator by Helm")
        install_operator(self._cluster)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        self._kubectl("apply", "-f", "-", stdin=json.dumps(namespace))

    async def start(self, scenario: Scenario, static_milli: int | None) -> Endpoint:
        document = json.dumps(manifest(scenario, static_milli, self._template))
        await asyncio.to_thread(self._kubectl, "apply", "-n", NAMESPACE, "-f", "-", stdin=document)
        pod = await self._ready_pod()
        self._pod = pod["metadata"]["name"]
        address = await asyncio.to_thread(self._reach, pod["status"]["podIP"])
        secret = await asyncio.to_thread(self._get, "secret", f"{NAME}-sponge-control")
        token = base64.b64decode(secret["data"]["token"]).decode()
        return Endpoint(address[0], address[1], token)

    async def facts(self) -> PodFacts:
        pod = await asyncio.to_thread(self._get, "pod", self._pod)
        restarts = sum(container["restartCount"] for container in pod["status"]["containerStatuses"])
        # Nothing but a resize changes the spec of a pod, and each counts the generation up.
        return PodFacts(resizes=pod["metadata"]["generation"], restarts=restarts)

    async def stop(self) -> None:
        if self._forward is not None:
            self._forward.terminate()
            await asyncio.to_thread(self._forward.wait)
            self._forward = None
        # In the foreground: what is still being collected would be taken from the next service of that name.
        await asyncio.to_thread(
            self._kubectl,
            *("delete", "-n", NAMESPACE, "spongeservice", NAME, "--ignore-not-found", "--cascade=foreground"),
            f"--timeout={GONE_WITHIN_S:g}s",
        )

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
            await asyncio.sleep(1.0)
        service = await asyncio.to_thread(self._get, "spongeservice", NAME)
        reasons = [c["message"] for c in service.get("status", {}).get("conditions", ()) if c["status"] != "True"]
        raise DemoError(
            f"the SpongeService is not ready after {READY_WITHIN_S:g} s: {'; '.join(reasons) or 'no reason given'}"
        )

    def _reach(self, address: str) -> tuple[str, str]:
        """The pod's two URLs, as they are reached from here."""
        with contextlib.suppress(OSError), socket.create_connection((address, CONTROL_PORT), timeout=REACH_S):
            return f"http://{address}:{HTTP_PORT}", f"http://{address}:{CONTROL_PORT}"
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


def manifest(scenario: Scenario, static_milli: int | None, template: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The SpongeService of a run, with a partial pod template for its servers."""
    low, high = (scenario.min_milli, scenario.max_milli) if static_milli is None else (static_milli, static_milli)
    return {
        "apiVersion": "serving.sponge.dev/v1alpha1",
        "kind": "SpongeService",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"name": scenario.model, "source": scenario.source},
            "slo": {"latency": f"{scenario.slo_s * 1000:g}ms", "target": scenario.target * 100},
            "cpu": {"min": f"{low}m", "max": f"{high}m", "step": f"{scenario.step_milli}m"},
            "batch": {"max": scenario.max_batch},
            "profile": {"from": scenario.profile},
            "mode": "Auto" if static_milli is None else "Off",
            "template": template or {},
        },
    }
