"""metrics-server and the Vertical Pod Autoscaler, built from `programs/` and run as processes of this machine.

They run beside the local cluster's control plane, which is not in pods either, and log in as its administrator.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.live_baselines.autoscalers import VpaSettings
from bench.live_baselines.servers import NAMESPACE
from bench.real_service import Kubectl
from sponge_cluster import Cluster, ConsoleProgress
from sponge_cluster.go_module import GoModule
from sponge_cluster.layout import free_port
from sponge_cluster.processes import alive, spawn, stop, tail
from sponge_core.errors import SpongeError
from sponge_simulator.metrics import METRICS_SERVER_S

__all__ = ["MODULE", "metrics_server", "vertical_autoscaler"]

_VPA, _METRICS = "k8s.io/autoscaler/vertical-pod-autoscaler", "sigs.k8s.io/metrics-server"

MODULE = GoModule(
    folder=Path(__file__).parent / "programs",
    sources=("go.mod", "go.sum", "tools.go"),
    programs={
        "metrics-server": f"{_METRICS}/cmd/metrics-server",
        "vpa-recommender": f"{_VPA}/pkg/recommender",
        "vpa-updater": f"{_VPA}/pkg/updater",
    },
    main=_VPA,
    what="the benchmark of live baselines",
    # Measured with a cold cache: 1.1 GB of build cache, 0.4 GB of sources, 0.2 GB of programs.
    disk_bytes=2 * 1000**3,
)

CRDS = ("deploy", "vpa-v1-crd-gen.yaml")
METRICS_WITHIN_S = 90.0
METRICS = "metrics-server"
METRICS_NAMESPACE = "kube-system"
API_GROUP = "metrics.k8s.io"


@contextmanager
def _running(argv: Sequence[str], log: Path) -> Iterator[None]:
    """Runs a program until the end of the block. Raises ClusterError if it ends at once."""
    process = spawn(argv, log=log, env=os.environ, cwd=log.parent)
    try:
        yield
    finally:
        ended = not alive(process)
        stop([process], grace_s=5.0)
    if ended:
        raise SpongeError(f"{Path(argv[0]).name} ended during the run: {tail(log)}; see {log}")


@contextmanager
def metrics_server(cluster: Cluster, kubectl: Kubectl, folder: Path) -> Iterator[None]:
    """metrics-server behind the API server, with the settings of its manifest; removed at the end.

    Raises:
        SpongeError: the cluster is not the native one, or there are no metrics of nodes in time.
    """
    if cluster.backend != "native":
        raise SpongeError(
            f"the API server of a {cluster.backend} cluster does not reach this machine: take the native one"
        )
    program = MODULE.ensure(["metrics-server"], ConsoleProgress())["metrics-server"]
    node = json.loads(kubectl("get", "node", cluster.node, "-o", "json"))
    address = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
    port = free_port()
    log_in = [f"--{kind}kubeconfig={cluster.kubeconfig}" for kind in ("", "authentication-", "authorization-")]
    argv = [
        str(program),
        *log_in,
        f"--bind-address={address}",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        "--kubelet-insecure-tls",
        "--kubelet-preferred-address-types=InternalIP",
        f"--metric-resolution={METRICS_SERVER_S:g}s",
    ]
    objects = _behind_the_api_server(address, port)
    with _running(argv, folder / "metrics-server.log"):
        for each in objects:
            kubectl("apply", "-f", "-", document=each)
        try:
            _wait_for_metrics(kubectl)
            yield
        finally:
            for each in objects:
                kubectl("delete", "-f", "-", "--ignore-not-found", document=each)


def _behind_the_api_server(address: str, port: int) -> list[dict[str, Any]]:
    """A Service without a selector, its endpoint outside of the cluster, and the group of the API that it serves."""
    metadata = {"name": METRICS, "namespace": METRICS_NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": METRICS}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"v1beta1.{API_GROUP}"},
            "spec": {
                "service": {**metadata, "port": 443},
                "group": API_GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
            },
        },
    ]


def _wait_for_metrics(kubectl: Kubectl) -> None:
    until = time.monotonic() + METRICS_WITHIN_S
    said = ""
    while time.monotonic() < until:
        try:
            if json.loads(kubectl("get", "--raw", f"/apis/{API_GROUP}/v1beta1/nodes"))["items"]:
                return
        except SpongeError as error:
            said = str(error)
        time.sleep(1.0)
    raise SpongeError(f"metrics-server has no metrics after {METRICS_WITHIN_S:g} s: {said or 'none of nodes'}")


@contextmanager
def vertical_autoscaler(cluster: Cluster, kubectl: Kubectl, settings: VpaSettings, folder: Path) -> Iterator[None]:
    """The recommender and the updater; what they have learnt ends with them.

    The admission controller is left out: it sizes only new pods, and these are resized in place.
    """
    programs = MODULE.ensure(["vpa-recommender", "vpa-updater"], ConsoleProgress())
    kubectl("apply", "--server-side", "-f", str(MODULE.source_of(_VPA).joinpath(*CRDS)))
    common = (f"--kubeconfig={cluster.kubeconfig}", f"--vpa-object-namespace={NAMESPACE}")
    with contextlib.ExitStack() as stack:
        for name, flags in (("vpa-recommender", settings.recommender), ("vpa-updater", settings.updater)):
            argv = [str(programs[name]), *common, "--v=4", f"--address=127.0.0.1:{free_port()}", *flags]
            stack.enter_context(_running(argv, folder / f"{name}.log"))
        yield
