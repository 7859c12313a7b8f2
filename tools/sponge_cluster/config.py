"""The text of the configuration files of the node's parts.

They hold only settings that differ from the defaults, with the reason. `components` has the flags.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import yaml

from sponge_cluster.layout import Layout, Node

__all__ = ["cni_conflist", "containerd_config", "kube_proxy_config", "kubeconfig", "kubelet_config"]


def kubeconfig(layout: Layout, client: str, *, embed: bool = False) -> str:
    """A kubeconfig for one of the client certificates; `embed` puts the certificates into the file."""
    context = f"sponge-{layout.name}"

    def part(key: str, file: str) -> dict[str, str]:
        path = layout.pki / file
        if embed:
            return {f"{key}-data": base64.b64encode(path.read_bytes()).decode()}
        return {key: str(path)}

    user = part("client-certificate", f"{client}.crt") | part("client-key", f"{client}.key")
    cluster = {"server": layout.server} | part("certificate-authority", "ca.crt")
    return _yaml(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": client, "user": user}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": client}}],
            "current-context": context,
        }
    )


def containerd_config(layout: Layout, node: Node, *, pause_image: str, cni_bin: str) -> str:
    """containerd's config.toml (version 2, which containerd 1.6 to 2.x read)."""
    state = node.folder / "containerd"
    cri: dict[str, Any] = {
        "sandbox_image": pause_image,
        # Without CAP_SYS_RESOURCE a process cannot lower its OOM score, and no container would start.
        "restrict_oom_score_adj": True,
        # The default is below /var/run/netns, which other programs use too.
        "netns_mounts_under_state_dir": True,
    }
    cni = {"bin_dir": cni_bin, "conf_dir": str(layout.config / node.own("cni"))}
    # The default is below /run/containerd, which any other containerd uses too.
    runc = {"SystemdCgroup": False, "Root": str(state / "runc")}
    tables: list[tuple[str, dict[str, Any]]] = [
        (
            "",
            {
                "version": 2,
                "root": str(state / "root"),
                "state": str(state / "state"),
                "oom_score": 0,
                # Snapshotters that this node does not use, and that complain about the file system at each start.
                "disabled_plugins": [
                    f"io.containerd.snapshotter.v1.{s}" for s in ("aufs", "btrfs", "devmapper", "zfs")
                ],
            },
        ),
        ("grpc", {"address": str(node.containerd_socket)}),
        ('plugins."io.containerd.internal.v1.opt"', {"path": str(state / "opt")}),
        ('plugins."io.containerd.grpc.v1.cri"', cri),
        ('plugins."io.containerd.grpc.v1.cri".containerd', {"snapshotter": "overlayfs"}),
        ('plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc', {"runtime_type": "io.containerd.runc.v2"}),
        ('plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options', runc),
        (
            'plugins."io.containerd.grpc.v1.cri".cni',
            cni,
        ),
    ]
    return "\n".join(_toml_table(name, values) for name, values in tables)


def cni_conflist(layout: Layout, node: Node) -> str:
    """The pod network: one bridge, addresses from the node's range, nothing masqueraded."""
    bridge = {
        "type": "bridge",
        "bridge": layout.bridge,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,  # a pod may reach itself through its Service
        "ipam": {
            "type": "host-local",
            "dataDir": str(node.folder / "cni"),
            "ranges": [[{"subnet": node.pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": layout.network, "plugins": [bridge]}, indent=2)


def kubelet_config(layout: Layout, node: Node, machine_cores: int) -> str:
    """KubeletConfiguration of a node, on a machine of so many cores."""
    quick = {
        # With the flags in `components`: a dead node is NotReady after 10 s, rather than 50.
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
    }
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(layout.pki / f"{node.own('kubelet-server')}.crt"),
            "tlsPrivateKeyFile": str(layout.pki / f"{node.own('kubelet-server')}.key"),
            "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "resolvConf": str(layout.config / "resolv.conf"),
            "podLogsDir": str(node.folder / "pod-logs"),
            "volumePluginDir": str(node.folder / "volume-plugins"),
            # kube-proxy makes the chains that it needs. Those of the kubelet would only need a cleanup.
            "makeIPTablesUtilChains": False,
            # A changed Secret or ConfigMap reaches its pods within seconds; by default it takes a minute or more.
            "syncFrequency": "5s",
            # This node must not free the machine's disk: a deleted image cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "systemReserved": layout.workers.system_reserved(machine_cores),
        }
        | (quick if layout.workers.count > 1 else {})
    )


def kube_proxy_config(layout: Layout, node: Node) -> str:
    """KubeProxyConfiguration of a node."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(layout.config / "proxy.kubeconfig")},
            "hostnameOverride": node.name,
            "clusterCIDR": layout.pod_cidr,
            "oomScoreAdj": 0,
            "healthzBindAddress": f"{node.address}:{layout.proxy_health_port}",
            "metricsBindAddress": f"127.0.0.1:{layout.proxy_metrics_port}",
            # NodePorts on the bridge only: not on the machine's network, and no route_localnet switched on for them.
            "nodePortAddresses": [node.pod_cidr],
            "iptables": {"localhostNodePorts": False, "minSyncPeriod": "100ms"},
            # Zero leaves the machine's connection tracking limits alone.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
    )


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False)


def _toml_table(name: str, values: dict[str, Any]) -> str:
    # JSON's strings, numbers, booleans and flat lists are TOML's too.
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(([f"[{name}]"] if name else []) + lines) + "\n"
