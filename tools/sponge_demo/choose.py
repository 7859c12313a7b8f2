"""Chooses the backend of a demo, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sponge_demo.backend import Backend, Say
from sponge_demo.cluster import ClusterBackend
from sponge_demo.local import LocalBackend

__all__ = ["choose_backend", "cluster_possible"]


def choose_backend(requested: str, folder: Path, say: Say) -> tuple[Backend, bool]:
    """The backend, and whether it is a cluster.

    Args:
        requested: auto, cluster or local.
        folder: for its logs.
    """
    if requested == "auto":
        possible, why = cluster_possible(os.geteuid() == 0, _docker_answers(), shutil.which("go") is not None)
        say(f"Backend {'cluster' if possible else 'local'}: {why}")
        requested = "cluster" if possible else "local"
    return (ClusterBackend(), True) if requested == "cluster" else (LocalBackend(folder), False)


def cluster_possible(is_root: bool, docker: bool, go: bool) -> tuple[bool, str]:
    """Whether a local Kubernetes can run here, and why or why not."""
    if docker:
        return True, "a Docker engine answers, so kind can run"
    if is_root and go:
        return True, "root may run Kubernetes as plain processes"
    lacks = "no Docker engine answers, and Kubernetes as plain processes takes "
    return False, lacks + ("Go to build it" if is_root else "root")


def _docker_answers() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
