"""A node image for kind, made on this machine, where kind's own cannot be pulled.

It has the versions of the local cluster, one node, and no image but those of the control plane. Run on cgroup v1 only.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sponge_cluster import binaries
from sponge_cluster.errors import ClusterError
from sponge_cluster.images import Entry, Image, write_archive
from sponge_cluster.packages import install_missing, static_busybox
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_images import programs
from sponge_images.base import STAND_IN, stand_in
from sponge_images.engine import Docker

__all__ = ["node_image"]

_NODE = Path(__file__).parent / "node"
_XTABLES = "xtables-nft-multi"
_XTABLES_NAMES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")


def node_image(docker: Docker, progress: Progress) -> str:
    """The tag of the node image; builds it if this version of it is not here."""
    version = binaries.versions()["kubernetes"]
    tag = f"sponge.local/kind-node:{version}-{_digest()}"
    if docker.says("image", "inspect", tag):
        return tag
    install_missing(progress)
    if not docker.says("image", "inspect", STAND_IN):
        stand_in(docker, progress)
    kubernetes = binaries.MODULE.ensure(tuple(binaries.MODULE.programs), progress)
    kubeadm = programs.kubeadm(progress)
    names = check([str(kubeadm), "config", "images", "list", "--kubernetes-version", version]).split()
    with tempfile.TemporaryDirectory(prefix="sponge-node-") as scratch:
        context = Path(scratch)
        shutil.copytree(_NODE, context, dirs_exist_ok=True)
        (context / "bin").mkdir()
        (context / "images").mkdir()
        for name, path in {"kubeadm": kubeadm, **{name: kubernetes[name] for name in ("kubelet", "kubectl")}}.items():
            shutil.copy2(path, context / "bin" / name)
        for name in names:
            with progress.busy(f"making the image {name}"):
                image = _control_plane_image(name, kubernetes, progress)
                write_archive(context / "images" / f"{_short(name)}.tar", [image])
        (context / "files/kind/version").write_text(version)
        config = context / "files/etc/containerd/config.toml"
        pause = next(name for name in names if _short(name) == "pause")
        config.write_text(re.sub(r'sandbox_image = ".*"', f'sandbox_image = "{pause}"', config.read_text()))
        with progress.busy(f"building the node image {tag}"):
            docker.show("build", "--network=host", "--build-arg", f"BASE={STAND_IN}", "--tag", tag, str(context))
    return tag


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted([*_NODE.rglob("*"), Path(__file__)]):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _short(name: str) -> str:
    """`etcd` of registry.k8s.io/etcd:3.6.8-0."""
    return name.rpartition("/")[2].partition(":")[0]


def _control_plane_image(name: str, kubernetes: dict[str, Path], progress: Progress) -> Image:
    short = _short(name)
    if short == "pause":
        busybox = static_busybox()
        assert busybox is not None  # install_missing has seen to it
        return Image((name,), (Entry("bin/busybox", busybox.read_bytes()),), ("/bin/busybox", "sleep", "2147483647"))
    if short == "coredns":
        program = programs.coredns(name.rpartition(":")[2], progress)
        return Image((name,), (Entry("coredns", program.read_bytes()), *_certificates()), ("/coredns",))
    if short not in kubernetes:
        raise ClusterError(f"kubeadm asks for an image {name} that nothing here can make")
    entries = [Entry(f"usr/local/bin/{short}", kubernetes[short].read_bytes()), Entry("tmp", mode=0o1777)]
    if short == "kube-proxy":
        entries += _iptables()
    return Image((name,), tuple(entries), ())


def _certificates() -> tuple[Entry, ...]:
    path = Path("/etc/ssl/certs/ca-certificates.crt")
    return (Entry(str(path)[1:], path.read_bytes(), mode=0o644),) if path.exists() else ()


def _iptables() -> list[Entry]:
    """iptables with its extensions and the libraries of all of them."""
    program = shutil.which(_XTABLES, path="/usr/sbin:/sbin")
    if program is None:
        raise ClusterError(f"there is no {_XTABLES}: install the Debian package iptables")
    extensions = sorted(next(Path("/usr/lib").glob("*/xtables")).glob("*.so"))
    entries = [Entry(f"usr/sbin/{_XTABLES}", Path(program).read_bytes())]
    entries += [Entry(f"usr/sbin/{name}", link=_XTABLES) for name in _XTABLES_NAMES]
    entries += [Entry(str(path)[1:], path.read_bytes()) for path in extensions]
    entries += [Entry(f"usr{path}", Path(path).read_bytes()) for path in _libraries([program, *map(str, extensions)])]
    entries += [Entry("lib", link="usr/lib"), Entry("lib64", link="usr/lib64"), Entry("sbin", link="usr/sbin")]
    return entries


def _libraries(programs_and_libraries: Iterable[str]) -> list[str]:
    """Every library that ldd lists, at /lib or /lib64."""
    found: set[str] = set()
    for path in programs_and_libraries:
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        found |= {match.removeprefix("/usr") for match in re.findall(r"(/\S+\.so\S*)", said)}
    return sorted(path for path in found if path.startswith(("/lib/", "/lib64/")))
