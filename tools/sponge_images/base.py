"""The base image of the Dockerfiles: pulled, or a stand-in of Debian packages where no registry can be reached."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from sponge_cluster.errors import ClusterError
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_images.engine import Docker

__all__ = ["STAND_IN", "base_image", "check_may_make", "import_tree", "stand_in"]

STAND_IN = "sponge.local/python:debian"
_SUITE = "bookworm"
# Debian's Python has its headers in a package of their own.
_PACKAGES = ("ca-certificates", "python3", "python3-venv", "python-is-python3", "libpython3.11-dev")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def base_image(docker: Docker, dockerfile: Path, progress: Progress) -> str:
    """The image to build on: the Dockerfile's own if it is here or can be pulled, else the stand-in."""
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    if found is None:
        raise ClusterError(f"{dockerfile} names no base image: it needs a line `ARG BASE=IMAGE`")
    if docker.has(found[1]):
        return found[1]
    if not docker.says("image", "inspect", STAND_IN):
        check_may_make(found[1])
        progress.say(f"{found[1]} cannot be pulled")
        stand_in(docker, progress)
    return STAND_IN


def check_may_make(image: str) -> None:
    """Raises ClusterError if this machine can make no image in the place of one that cannot be pulled."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(
            f"`docker pull {image}` fails: see what it says, and mend that. Only root on Debian can make a stand-in"
        )


def stand_in(docker: Docker, progress: Progress) -> None:
    """Makes a Debian with Python and imports it as STAND_IN. Needs root and debootstrap, which it installs."""
    if not shutil.which("debootstrap"):
        with progress.busy("installing debootstrap"):
            check(["apt-get", "install", "-y", "--no-install-recommends", "debootstrap"], timeout_s=300.0)
    with tempfile.TemporaryDirectory(prefix="sponge-base-") as scratch, progress.busy("making a base image of Debian"):
        root = Path(scratch) / "root"
        check(
            ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root)], timeout_s=900.0
        )
        for cached in (root / "var/cache/apt/archives").glob("*.deb"):
            cached.unlink()
        if _CERTIFICATES.exists():
            # This machine may have an authority of its own between itself and package indexes.
            shutil.copy(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
        import_tree(docker, root, STAND_IN, f"ENV PIP_CERT={_CERTIFICATES}")


def import_tree(docker: Docker, root: Path, tag: str, *changes: str) -> None:
    """Makes an image of one layer from a folder."""
    options = [word for change in changes for word in ("--change", change)]
    tar = subprocess.Popen(
        ["tar", "--create", "--numeric-owner", "--directory", str(root), "."], stdout=subprocess.PIPE
    )
    done = subprocess.run(
        ["docker", "import", *options, "-", tag],
        env=dict(docker.environment),
        stdin=tar.stdout,
        capture_output=True,
        text=True,
        check=False,
    )
    if tar.wait() != 0 or done.returncode != 0:
        raise ClusterError(f"cannot import the image {tag}: {done.stderr.strip()}")
