"""Runs this machine's Python environment in pods, without building an image of several gigabytes.

A pod gets the almost empty image of `images` and read-only mounts of the host: /usr, /lib, /lib64, the base Python,
the virtual environment, the project's source, and the models that this machine has built already. Only the local
cluster works this way: a real one needs an image.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sponge_cluster.images import PYTHON_IMAGE
from sponge_system.cache_folder import cache_root, models_folder

__all__ = ["PythonPod", "host_mounts", "outermost", "python_pod"]

_SYSTEM = ("/usr", "/lib", "/lib64")
_PACKAGES = (
    "sponge_core",
    "sponge_profiles",
    "sponge_server",
    "sponge_operator",
    "sponge_client",
    "sponge_front",
    "sponge_cli",
)


def host_mounts() -> tuple[str, ...]:
    """The folders that a pod mounts, each at its path on this machine, to run `sys.executable -m sponge_cli.main`."""
    found = [path for path in _SYSTEM if Path(path).is_dir()]
    found += [str(Path(sys.base_prefix).resolve()), sys.prefix]
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            found.append(str(_source_root(Path(location))))
    models_folder().mkdir(parents=True, exist_ok=True)
    found.append(str(models_folder()))
    return outermost(found)


def _source_root(package: Path) -> Path:
    """The project folder of an editable installation, else the folder that holds the package."""
    return next((up for up in package.parents if (up / "pyproject.toml").exists()), package.parent)


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The sorted paths without those inside another one."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(Path(path).is_relative_to(above) for above in kept):
            kept.append(path)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class PythonPod:
    """Parts of a pod template, with the field names of the Kubernetes API (plain dicts, ready for Helm values)."""

    image: str
    image_pull_policy: str
    command: tuple[str, ...]
    volumes: tuple[dict[str, Any], ...]
    volume_mounts: tuple[dict[str, Any], ...]

    def container(self) -> dict[str, Any]:
        """The fields of a container: image, imagePullPolicy, command, volumeMounts."""
        return {
            "image": self.image,
            "imagePullPolicy": self.image_pull_policy,
            "command": list(self.command),
            "volumeMounts": list(self.volume_mounts),
        }

    def template(self, container: str) -> dict[str, Any]:
        """A partial pod template for the container of that name: `{"spec": {"volumes": ..., "containers": [...]}}`."""
        return {"spec": {"volumes": list(self.volumes), "containers": [{"name": container} | self.container()]}}


def python_pod(mounts: Iterable[str], host_root: str = "") -> PythonPod:
    """The pod parts for these host folders; on the node they are below `host_root`."""
    volumes, volume_mounts = [], []
    for number, path in enumerate(mounts):
        name = f"sponge-host-{number}"
        volumes.append({"name": name, "hostPath": {"path": host_root + path, "type": "Directory"}})
        volume_mounts.append({"name": name, "mountPath": path, "readOnly": True})
    environment = [f"XDG_CACHE_HOME={cache_root().parent}"]
    if sources := os.environ.get("PYTHONPATH"):  # a source tree that is not the installed one
        environment.append(f"PYTHONPATH={sources}")
    command = ("/usr/bin/env", *environment, sys.executable, "-m", "sponge_cli.main")
    return PythonPod(PYTHON_IMAGE, "Never", command, tuple(volumes), tuple(volume_mounts))
