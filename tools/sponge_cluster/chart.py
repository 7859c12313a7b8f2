"""Installs the Helm chart into the local cluster, with pods that run this machine's Python environment.

A real cluster needs only `helm install` and two images. Here, mounts of the host replace the images, so that the
operator and the servers in the pods run the source tree.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sponge_cluster import Cluster, PythonPod
from sponge_core.errors import SpongeError

__all__ = ["CHART", "NAMESPACE", "RELEASE", "install_operator", "local_values"]

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "sponge"
NAMESPACE = "sponge-system"
RELEASE = "sponge"

HOST_USER: dict[str, Any] = {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
"""Root, who runs a native cluster, owns the environment on the host; other users may not be able to read it."""


def local_values(pod: PythonPod) -> dict[str, Any]:
    """Values of the chart for pods that run this machine's Python."""
    repository, _, tag = pod.image.rpartition(":")
    server = pod.template("server")
    server["spec"]["securityContext"] = dict(HOST_USER)
    front: dict[str, Any] = pod.template("picker")
    beside = {"image": pod.image, "imagePullPolicy": pod.image_pull_policy, "volumeMounts": list(pod.volume_mounts)}
    front["spec"]["securityContext"] = dict(HOST_USER)
    front["spec"]["initContainers"] = [{"name": "prepare", **pod.container()}]
    front["spec"]["containers"].append({"name": "envoy", **beside, "command": [_beside_python("envoy")]})
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": pod.image_pull_policy},
        "command": list(pod.command),
        "volumes": list(pod.volumes),
        "volumeMounts": list(pod.volume_mounts),
        "podSecurityContext": dict(HOST_USER),
        # Everybody here is root already.
        "server": {"image": pod.image, "template": server, "templateSecurity": "privileged"},
        "front": {"image": pod.image, "envoyImage": pod.image, "template": front},
    }


def _beside_python(program: str) -> str:
    """A program of this machine's Python environment."""
    return str(Path(sys.executable).parent / program)


def install_operator(cluster: Cluster, values: Mapping[str, Any] | None = None, timeout_s: int = 180) -> None:
    """Installs or upgrades the CRD and the operator, and waits until it is ready.

    Args:
        values: more values for the chart; they override the local ones.

    Raises:
        SpongeError: this installation has no chart beside it, or the installation of the chart failed.
    """
    if not CHART.is_dir():
        raise SpongeError(f"no chart at {CHART}; run from a source tree of Sponge")
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    # Helm installs a CRD once and never changes it, but here the source tree changes.
    _run([str(cluster.kubectl), "apply", "--server-side", "--force-conflicts", "-f", str(CHART / "crds")], environment)
    _run(
        [
            *(str(cluster.helm), "upgrade", RELEASE, str(CHART), "--install", "--skip-crds"),
            *("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", f"{timeout_s}s"),
            *("--values", "-"),
        ],
        environment,
        json.dumps({**local_values(cluster.python_pod()), "podAnnotations": _sources(), **(values or {})}),
    )


def _sources() -> dict[str, str]:
    """An annotation that changes with the operator's source on the host, so that an upgrade restarts the operator."""
    digest = hashlib.sha256()
    for package in ("sponge_core", "sponge_operator", "sponge_cli"):
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.read_bytes())
    return {"serving.sponge.dev/sources": digest.hexdigest()[:16]}


def _run(command: list[str], environment: Mapping[str, str], stdin: str | None = None) -> None:
    done = subprocess.run(command, env=dict(environment), input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SpongeError(f"{Path(command[0]).name} {command[1]} failed: {(done.stderr or done.stdout).strip()}")
