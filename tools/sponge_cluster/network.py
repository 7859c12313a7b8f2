"""Changes the machine's network and kernel settings for the native cluster, and reverts exactly these changes.

They are a bridge, a pair of interfaces for each further node, iptables rules that name the bridge in a comment,
kube-proxy's chains and a few sysctls.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sponge_cluster.layout import Layout, Node, bridge_name, link_name
from sponge_cluster.packages import daemon_environment
from sponge_cluster.processes import check
from sponge_cluster.workers import MOST_WORKERS

__all__ = [
    "SYSCTLS",
    "create_bridge",
    "create_link",
    "cut",
    "has_interface",
    "heal",
    "read_sysctls",
    "removal_script",
    "remove_chains",
    "remove_interfaces",
    "routes",
    "rules_of",
    "write_sysctls",
]

SYSCTLS: Mapping[str, str | None] = {
    "net/ipv4/ip_forward": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    # The kubelet sets these; this module only restores them.
    "vm/overcommit_memory": None,
    "vm/panic_on_oom": None,
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/keys/root_maxbytes": None,
}
"""Paths below /proc/sys, with the value that the cluster needs; None if one of its parts writes the value."""

_FAMILIES = ("iptables", "ip6tables")

_RULES = (("filter", "FORWARD"), ("mangle", "PREROUTING"), ("mangle", "POSTROUTING"))
"""Tables and chains with rules that name the bridge."""


def routes() -> list[str]:
    """The address ranges of this machine's routes."""
    listed = json.loads(_run("ip", "-j", "-4", "route", "show", "table", "all"))
    return [route["dst"] for route in listed if route["dst"][0].isdigit()]


def has_interface(name: str) -> bool:
    """Whether a network interface of that name exists. Uses `ip`: /sys may show another network namespace."""
    return _holds("ip", "link", "show", "dev", name)


def create_bridge(layout: Layout) -> None:
    """Creates the bridge of the first node, with the host's address on it, and allows forwarded packets of its pods."""
    _ip(
        f"link add {layout.bridge} type bridge",
        f"address add {layout.gateway}/{_length(layout.nodes[0])} dev {layout.bridge}",
        f"link set {layout.bridge} up",
    )
    _allow_forwarding(layout, layout.bridge)


def create_link(layout: Layout, node: Node) -> None:
    """Creates the network namespace of a further node, with a bridge for its pods, and joins it to the machine.

    The pair of interfaces has no range of its own: each side routes the other's pods through it.
    """
    namespace, inner = node.namespace, "eth0"
    if namespace is None:
        return
    namespace.touch()
    _run("unshare", f"--net={namespace}", "true")
    _ip(
        f"link add {node.link} type veth peer name {inner} netns {namespace}",
        # kube-proxy masquerades with the address of the interface that a packet leaves by.
        f"address add {layout.gateway}/32 dev {node.link}",
        f"link set {node.link} up",
        f"route add {node.pod_cidr} via {node.address} dev {node.link} onlink src {layout.gateway}",
    )
    _ip(
        "link set lo up",
        f"link add {layout.bridge} type bridge",
        f"address add {node.address}/{_length(node)} dev {layout.bridge}",
        f"link set {layout.bridge} up",
        f"link set {inner} up",
        f"route add {layout.gateway} dev {inner} scope link src {node.address}",
        f"route add default via {layout.gateway} dev {inner} src {node.address}",
        inside=_inside(namespace),
    )
    settings = [f"{key}={value}" for key, value in SYSCTLS.items() if value is not None]
    write = 'for s in "$@"; do f=/proc/sys/${s%=*}; test ! -e $f || echo ${s#*=} > $f; done'
    _run(*_inside(namespace), "sh", "-ec", write, "sh", *settings)
    _allow_forwarding(layout, node.link)


def _inside(namespace: Path) -> tuple[str, ...]:
    return ("nsenter", f"--net={namespace}")


def _length(node: Node) -> str:
    return node.pod_cidr.split("/")[1]


def _allow_forwarding(layout: Layout, interface: str) -> None:
    # The default may be to drop forwarded packets (Docker sets that).
    for direction in ("-i", "-o"):
        _run("iptables", "-w", "-I", "FORWARD", direction, interface, *_comment(layout.bridge), "-j", "ACCEPT")


def _comment(bridge: str) -> list[str]:
    return ["-m", "comment", "--comment", f"sponge {bridge}"]


def cut(layout: Layout, node: Node) -> None:
    """Loses every packet from and to a further node. Its interfaces stay up, as behind a switch that fails."""
    for rule in _cut_rules(layout, node):
        if not _holds("iptables", "-w", "-t", "mangle", "-C", *rule):
            _run("iptables", "-w", "-t", "mangle", "-I", *rule)


def heal(layout: Layout, node: Node) -> None:
    """Ends what `cut` began, if it did."""
    for rule in _cut_rules(layout, node):
        if _holds("iptables", "-w", "-t", "mangle", "-C", *rule):
            _run("iptables", "-w", "-t", "mangle", "-D", *rule)


def _cut_rules(layout: Layout, node: Node) -> list[list[str]]:
    ways = (("PREROUTING", "-i"), ("POSTROUTING", "-o"))
    return [[chain, direction, node.link, *_comment(layout.bridge), "-j", "DROP"] for chain, direction in ways]


def remove_interfaces(name: str) -> None:
    """Removes the bridge, the pods' ends on it, the links to further nodes and all their rules, where they exist."""
    bridge = bridge_name(name)
    for table, chain in _RULES:
        for rule in rules_of(bridge, _run("iptables", "-w", "-t", table, "-S", chain)):
            _run("iptables", "-w", "-t", table, "-D", *rule)
    present = {link["ifname"]: link for link in json.loads(_run("ip", "-j", "link", "show"))}
    links = {link_name(name, number) for number in range(2, MOST_WORKERS + 1)}
    for interface, link in present.items():
        if interface in links or link.get("master") == bridge:
            # The namespace at its other end may disappear meanwhile, and this end with it.
            _holds("ip", "link", "delete", interface)
    if bridge in present:
        _run("ip", "link", "delete", bridge)


def rules_of(bridge: str, listed: str) -> list[list[str]]:
    """The rules of the cluster with that bridge in the output of `iptables -S`, each without its leading `-A`."""
    rules = [shlex.split(line)[1:] for line in listed.splitlines() if line.startswith("-A ")]
    return [rule for rule in rules if f"sponge {bridge}" in rule]


def remove_chains() -> None:
    """Removes all chains of kube-proxy. The caller must make sure that no other kube-proxy runs here."""
    for family in _FAMILIES:
        for table in ("filter", "nat", "mangle"):
            if not _holds(family, "-w", "-t", table, "-S", "KUBE-PROXY-CANARY"):
                # Every table that kube-proxy wrote to has its canary chain, so the others need no reading.
                continue
            if script := removal_script(table, _run(f"{family}-save", "-t", table)):
                _run(f"{family}-restore", "-w", "--noflush", input_text=script)


def removal_script(table: str, saved: str) -> str:
    """Input for iptables-restore --noflush that removes the KUBE- chains in iptables-save's output; "" for none."""
    chains = re.findall(r"^:(KUBE-\S+)", saved, re.MULTILINE)
    if not chains:
        return ""
    jumps = re.findall(r"^-A (?!KUBE-)(.* (?:-j|-g) KUBE-.*)$", saved, re.MULTILINE)
    # Naming a chain flushes it. Then nothing refers to any chain, and one transaction can remove them all.
    lines = [f"*{table}", *(f":{chain} - [0:0]" for chain in chains)]
    lines += [*(f"-D {jump}" for jump in jumps), *(f"-X {chain}" for chain in chains), "COMMIT", ""]
    return "\n".join(lines)


def read_sysctls() -> dict[str, str]:
    """The present values of `SYSCTLS`, without those that this kernel lacks."""
    values = {}
    for key in SYSCTLS:
        with contextlib.suppress(FileNotFoundError):
            values[key] = Path("/proc/sys", key).read_text().strip()
    return values


def write_sysctls(values: Mapping[str, str | None]) -> None:
    """Writes the values that differ from the present ones."""
    present = read_sysctls()
    for key, value in values.items():
        if value is not None and key in present and present[key] != value:
            Path("/proc/sys", key).write_text(value)


def _ip(*commands: str, inside: tuple[str, ...] = ()) -> None:
    _run(*inside, "ip", "-batch", "-", input_text="\n".join((*commands, "")))


def _run(*argv: str, input_text: str | None = None) -> str:
    return check(argv, input_text=input_text, env=daemon_environment())


def _holds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, env=dict(daemon_environment()), check=False).returncode == 0
