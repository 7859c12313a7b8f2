"""Builds the images of operator and server, tries them, and says how large they are."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass

from sponge_cluster.errors import ClusterError
from sponge_cluster.progress import Progress
from sponge_images.base import base_image
from sponge_images.engine import Docker
from sponge_release.version import ROOT, read_version

__all__ = ["CPU_WHEELS", "IMAGES", "Built", "build_all"]

IMAGES = ("operator", "server")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of wheels without CUDA; PyPI's for amd64 bring 3 GB of it."""

OUT = ROOT / "out" / "images"
# As in a pod with a read-only root file system and no rights.
_RESTRICTED = (
    "--rm",
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--network=none",
    "--tmpfs=/tmp",
)
_LISTED = {"operator": {"kopf", "kubernetes"}, "server": {"fastapi", "torch"}}
"""Some of what each image's list has to name."""

_ANY_USER = "--user=1000650000:0"
"""As OpenShift starts containers: the user has no name, and no other right than that of the group 0."""

_TRY_SERVER = """
import os
from sponge_server.models import digits
assert os.getuid() != 0
path = digits.cached()
assert str(path).startswith("/opt/sponge/cache"), path
import torch
print("torch", torch.__version__, "with CUDA" if torch.version.cuda else "for CPUs")
"""


@dataclass(frozen=True)
class Built:
    """One image.

    Attributes:
        size: in bytes, of all layers.
    """

    name: str
    tag: str
    size: int
    took_s: float


def build_all(docker: Docker, progress: Progress, torch_index: str | None = None) -> list[Built]:
    """Builds, tries and describes both images; writes what each holds to out/images.

    Args:
        torch_index: index of torch's wheels; None: the one without CUDA if it can be reached, else the default one.
    """
    index = torch_index if torch_index is not None else (CPU_WHEELS if _answers(CPU_WHEELS) else "")
    if not index:
        progress.say(f"{CPU_WHEELS} does not answer: the server's image gets torch with CUDA and is several GB larger")
    return [_build(docker, name, progress, index) for name in IMAGES]


def _build(docker: Docker, name: str, progress: Progress, torch_index: str) -> Built:
    dockerfile = ROOT / "deploy" / "docker" / f"{name}.Dockerfile"
    tag = f"sponge-{name}:{read_version()}"
    base = base_image(docker, dockerfile, progress)
    begun = time.monotonic()
    options = ["--build-arg", f"BASE={base}"]
    if name == "server" and torch_index:
        options += ["--build-arg", f"TORCH_INDEX={torch_index}"]
    with progress.busy(f"building {tag} on {base}"):
        # The stage that builds has a name too: the engine keeps its layers, and the next build begins with them.
        for image, target in ((f"sponge.local/build-{name}", ["--target=build"]), (tag, [])):
            docker.build(image, "--network=host", f"--file={dockerfile}", *target, *options, str(ROOT))
    took = time.monotonic() - begun
    _try(docker, name, tag, progress)
    size = int(docker.ask("image", "inspect", "--format", "{{.Size}}", tag))
    progress.say(f"{tag}: {size / 1e6:.0f} MB")
    return Built(name, tag, size, took)


def _try(docker: Docker, name: str, tag: str, progress: Progress) -> None:
    """Runs the image as restricted as a pod may be. Raises ClusterError if it does not work so."""
    progress.say(f"{tag}: {docker.ask('run', *_RESTRICTED, tag, '--version').strip()}")
    docker.ask("run", *_RESTRICTED, _ANY_USER, tag, "--help")
    if name == "server":
        python = ("run", *_RESTRICTED, "--entrypoint=python", tag)
        progress.say(f"{tag}: {docker.ask(*python, '-c', _TRY_SERVER, timeout_s=300.0).strip()}")
    bill = docker.ask("run", *_RESTRICTED, "--entrypoint=cat", tag, "/opt/sponge/sbom.cdx.json")
    listed = {component["name"] for component in json.loads(bill).get("components", ())}
    if not _LISTED[name] <= listed:
        raise ClusterError(
            f"{tag} does not say what it holds: /opt/sponge/sbom.cdx.json lacks {_LISTED[name] - listed}"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.cdx.json").write_text(bill)
    user = docker.ask("image", "inspect", "--format", "{{.Config.User}}", tag).strip()
    if user.partition(":")[0] in ("", "0", "root"):
        raise ClusterError(f"{tag} runs as root")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
