"""The way of most users, tried for real: a kind cluster, the images loaded, the chart installed, a service resized."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sponge_cluster import Workers, images
from sponge_cluster.chart import CHART, HOST_USER, NAMESPACE, RELEASE
from sponge_cluster.errors import ClusterError
from sponge_cluster.host_python import host_mounts, python_pod
from sponge_cluster.kind import HOST_ROOT, clients, kind_config
from sponge_cluster.processes import check
from sponge_cluster.progress import Progress
from sponge_images import programs
from sponge_images.base import check_may_make
from sponge_images.build import Built
from sponge_images.engine import Docker
from sponge_images.node_image import node_image
from sponge_release.version import ROOT

__all__ = ["KindTest", "Tools", "cluster_config", "listed"]

NAME = "sponge-test"
STOCK = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
"""The node image of kind v0.33.0."""

LARGEST = 2.5e9
"""Bytes of a server image that is loaded; a larger one holds CUDA, and the node mounts the machine's Python instead."""

RATES = (150, 300, 600, 1200)
"""Requests a second, one after the other until the pod is resized: how many the smallest size serves depends on the
machine."""

SERVICE = ROOT / "deploy" / "examples" / "digits.yaml"
CRD = "spongeservices.serving.sponge.dev"

STAYS = frozenset(
    {
        f"Namespace {NAMESPACE}",
        f"ServiceAccount {NAMESPACE}/default",
        f"ConfigMap {NAMESPACE}/kube-root-ca.crt",
    }
)
"""Helm's --create-namespace makes it, and Helm never deletes it."""


@dataclass(frozen=True)
class Tools:
    """Paths of the programs of this test."""

    kind: str
    kubectl: str
    helm: str

    @classmethod
    def find(cls, progress: Progress) -> Tools:
        """The user's own, or built ones. Raises ClusterError if there is neither these nor Go."""
        return cls(str(programs.kind(progress)), **clients(progress))


def cluster_config(mounts: Iterable[str], node: str, *, stock: bool) -> dict[str, Any]:
    """kind's configuration; a node image of our own needs settings that kind's does not."""
    config: dict[str, Any] = yaml.safe_load(kind_config(mounts, Workers(), machine_cores=1))
    config["nodes"][0]["image"] = node
    if not stock:
        kubelet = {
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "oomScoreAdj": 0,
            "resolvConf": "/kind/pod-resolv.conf",
        }
        config["networking"] = {"ipFamily": "ipv4"}
        config["kubeadmConfigPatches"] = [yaml.safe_dump(kubelet)]
    return config


def listed(table: str) -> set[str]:
    """`KIND NAME` or `KIND NAMESPACE/NAME` of each line `KIND NAMESPACE NAME`, without what is of the cluster itself.

    Objects in no namespace have `<none>` there. Events stay for an hour, whatever they are about.
    """
    found = set()
    for line in table.splitlines():
        kind, namespace, name = line.split()
        if namespace == "<none>":
            found.add(f"{kind} {name}")
        elif namespace in ("default", NAMESPACE) and kind != "Event":
            found.add(f"{kind} {namespace}/{name}")
    return found


class KindTest:
    """The steps, in order; `took` keeps the seconds of each."""

    def __init__(self, docker: Docker, tools: Tools, built: Mapping[str, Built], progress: Progress) -> None:
        self._docker = docker
        self._tools = tools
        self._built = built
        self._progress = progress
        self._mounts = host_mounts() if built["server"].size > LARGEST else ()
        self.took: dict[str, float] = {}

    def run(self) -> None:
        """Raises ClusterError at the first step that fails; the cluster is deleted in any case."""
        if self._mounts:
            self._progress.say("the server's image holds CUDA: the node mounts this machine's Python in its place")
        stock = self._docker.has(STOCK)
        if not stock:
            check_may_make(STOCK)
        node = STOCK if stock else node_image(self._docker, self._progress)
        with tempfile.TemporaryDirectory(prefix="sponge-kind-") as scratch:
            self._folder = Path(scratch)
            self._environment = {**self._docker.environment, "KUBECONFIG": str(self._folder / "kubeconfig")}
            self._step("delete an older cluster", self._delete)
            try:
                self._step(f"kind create cluster ({node})", lambda: self._create(node, stock=stock))
                self._step("kind load", self._load)
                before = self._objects()
                self._step("helm install", self._install)
                self._step("SpongeService Ready", self._serve)
                self._step("helm test", lambda: self._helm("test", RELEASE))
                self._step("requests answered, resized in place", self._resized)
                self._step("uninstalled, nothing left", lambda: self._uninstall(before))
            except BaseException:
                self._progress.say(self._state())
                raise
            finally:
                self._step("kind delete cluster", self._delete)

    def _create(self, node: str, *, stock: bool) -> None:
        path = self._folder / "kind.yaml"
        path.write_text(yaml.safe_dump(cluster_config(self._mounts, node, stock=stock), sort_keys=False))
        self._kind("create", "cluster", "--config", str(path), "--wait", "120s")

    def _load(self) -> None:
        tags = [self._built["operator"].tag]
        if self._mounts:
            archive = self._folder / "python.tar"
            images.write_archive(archive, [images.python_image(self._mounts)])
            self._kind("load", "image-archive", str(archive))
        else:
            tags.append(self._built["server"].tag)
        self._kind("load", "docker-image", *tags)

    def _install(self) -> None:
        repository, _, tag = self._built["operator"].tag.partition(":")
        values: dict[str, Any] = {"image": {"repository": repository, "tag": tag}}
        values["server"] = {"image": self._built["server"].tag}
        if self._mounts:
            pod = python_pod(self._mounts, HOST_ROOT)
            template = pod.template("server")
            template["spec"]["securityContext"] = dict(HOST_USER)
            values["server"] = {"image": pod.image, "template": template}
        install = ("install", RELEASE, str(CHART), "--create-namespace", "--wait", "--timeout", "120s")
        self._helm(*install, "--values", "-", text=yaml.safe_dump(values))

    def _serve(self) -> None:
        self._kubectl("apply", "-f", str(SERVICE))
        self._kubectl("wait", "--for=condition=Ready", "sps/digits", "--timeout=300s", timeout_s=310.0)

    def _resized(self) -> None:
        pod = self._pod()
        self._until("the idle pod has 250m", lambda: self._cores(self._pod()) == "250m")
        grown = set()
        with self._forwarded() as url:
            with self._load_of(url, rate=10, duration_s=3) as sender:
                calm = self._report(sender)
            if calm["in_time"] == 0:
                raise ClusterError(f"no request was answered in time: {calm}")
            for rate in RATES:
                with self._load_of(url, rate=rate, duration_s=10) as sender:
                    while sender.poll() is None:
                        grown |= {self._cores(self._pod())} - {"250m"}
                        time.sleep(0.2)
                    self._report(sender)
                if grown:
                    break
        self._progress.say(f"  CPU limits above 250m seen at {rate} requests/s: {', '.join(sorted(grown)) or 'none'}")
        if not grown:
            raise ClusterError(f"the pod was not resized under {rate} requests/s")
        self._until("it shrinks again", lambda: self._cores(self._pod()) == "250m")
        before, after = (each["status"]["containerStatuses"][0] for each in (pod, self._pod()))
        if (before["containerID"], after["restartCount"]) != (after["containerID"], 0):
            raise ClusterError("the container was restarted: the resize was not in place")

    def _load_of(self, url: str, *, rate: int, duration_s: int) -> subprocess.Popen[str]:
        """A load generator at work, whose output is a report."""
        load = ("load", "--url", url, "--model", "digits", "--rate", str(rate), "--duration-s", str(duration_s))
        return subprocess.Popen(
            [sys.executable, "-m", "sponge_cli.main", *load, "--slo-ms", "300", "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def _report(self, sender: subprocess.Popen[str]) -> dict[str, Any]:
        said, _ = sender.communicate()
        if sender.returncode != 0:
            raise ClusterError(f"the load generator failed with exit code {sender.returncode}; see above")
        report: dict[str, Any] = json.loads(said)
        self._progress.say(f"  {report['sent']} requests sent, {report['in_time']} answered in time")
        return report

    def _uninstall(self, before: set[str]) -> None:
        # In the order of the guide: no object waits for the operator.
        self._helm("uninstall", RELEASE, "--wait")
        self._kubectl("delete", "sps", "--all", "--all-namespaces", "--timeout=60s")
        self._kubectl("delete", "crd", CRD, "--timeout=60s")
        self._gone(before | STAYS)
        self._kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")
        self._gone(before)

    def _gone(self, stays: set[str]) -> None:
        until = time.monotonic() + 60.0
        while left := self._objects() - stays:
            if time.monotonic() > until:
                raise ClusterError(f"left after the uninstallation: {', '.join(sorted(left))}")
            time.sleep(1.0)

    def _delete(self) -> None:
        self._kind("delete", "cluster")

    # --- the cluster, as kubectl tells of it

    def _objects(self) -> set[str]:
        """Every object that is not of the cluster itself."""
        resources = self._kubectl("api-resources", "--verbs=list", "--output=name").split()
        columns = "custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
        return listed(self._kubectl("get", ",".join(resources), "-A", "--no-headers", "-o", columns))

    def _pod(self) -> dict[str, Any]:
        text = self._kubectl("get", "pods", "-l", "serving.sponge.dev/service=digits", "-o", "json")
        pods: list[dict[str, Any]] = json.loads(text)["items"]
        if len(pods) != 1:
            raise ClusterError(f"one pod of the service is expected, there are {len(pods)}")
        return pods[0]

    @staticmethod
    def _cores(pod: dict[str, Any]) -> str:
        """The CPU limit that the kubelet has put into force."""
        (container,) = pod["status"]["containerStatuses"]
        return str(container.get("resources", {}).get("limits", {}).get("cpu", ""))

    @contextmanager
    def _forwarded(self) -> Iterator[str]:
        """The service's address on this machine."""
        command = [self._tools.kubectl, "port-forward", "service/digits", ":8080"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if (found := re.search(r"127\.0\.0\.1:\d+", line)) is None:
                raise ClusterError(f"kubectl port-forward says: {line!r}")
            yield f"http://{found[0]}"
        finally:
            process.terminate()
            process.wait(10)

    def _state(self) -> str:
        """What a person would look at after a failure."""
        questions = (
            ("get", "pods", "-A", "-o", "wide"),
            ("describe", "sps"),
            ("get", "events", "-A"),
            ("logs", "-n", NAMESPACE, "deployment/sponge-operator", "--tail=40"),
        )
        return "\n".join(self._answer(*words) for words in questions)

    def _answer(self, *words: str) -> str:
        try:
            return self._kubectl(*words)
        except ClusterError as error:
            return str(error)

    # --- running things

    def _step(self, what: str, do: Callable[[], None]) -> None:
        begun = time.monotonic()
        do()
        self.took[what] = time.monotonic() - begun
        self._progress.say(f"{what}: {self.took[what]:.1f} s")

    def _until(self, what: str, condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                raise ClusterError(f"not within {timeout_s:g} s: {what}")
            time.sleep(0.2)

    def _kind(self, *words: str) -> None:
        self._run(self._tools.kind, *words, "--name", NAME, timeout_s=900.0)

    def _helm(self, *words: str, text: str | None = None) -> None:
        self._run(self._tools.helm, *words, "--namespace", NAMESPACE, text=text)

    def _kubectl(self, *words: str, timeout_s: float = 120.0) -> str:
        return self._run(self._tools.kubectl, *words, timeout_s=timeout_s)

    def _run(self, *words: str, text: str | None = None, timeout_s: float = 300.0) -> str:
        return check(words, input_text=text, env=self._environment, timeout_s=timeout_s)
