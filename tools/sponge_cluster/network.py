"""Changes the machine's network and kernel settings for the native cluster, and reverts exactly these changes.

They are a bridge, two FORWARD rules, kube-proxy's iptables chains and a few sysctls.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sponge_cluster.layout import Layout
from sponge_cluster.packages import daemon_environment
from sponge_cluster.processes import check

__all__ = [
    "SYSCTLS",
    "create_bridge",
    "has_interface",
    "read_sysctls",
    "removal_script",
    "remove_bridge",
    "remove_chains",
    "routes",
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


def routes() -> list[str]:
    """The address ranges of this machine's routes."""
    listed = json.loads(_run("ip", "-j", "-4", "route", "show", "table", "all"))
    return [route["dst"] for route in listed if route["dst"][0].isdigit()]


def has_interface(name: str) -> bool:
    """Whether a network interface of that name exists. Uses `ip`: /sys may show another network namespace."""
    return _holds("ip", "link", "show", "dev", name)


def create_bridge(layout: Layout) -> None:
    """Creates the bridge with the host's address on it, and allows forwarded packets of the pods."""
    length = layout.pod_cidr.split("/")[1]
    _run("ip", "link", "add", layout.bridge, "type", "bridge")
    _run("ip", "address", "add", f"{layout.gateway}/{length}", "dev", layout.bridge)
    _run("ip", "link", "set", layout.bridge, "up")
    # The default may be to drop forwarded packets (Docker sets that).
    for direction in ("-i", "-o"):
        _run("iptables", "-w", "-I", "FORWARD", *_forward_rule(layout.bridge, direction))


def _forward_rule(bridge: str, direction: str) -> list[str]:
    return [direction, bridge, "-m", "comment", "--comment", f"sponge {bridge}", "-j", "ACCEPT"]


def remove_bridge(bridge: str) -> None:
    """Removes the bridge, the pods' ends on it and the two rules, as far as they exist."""
    for direction in ("-i", "-o"):
        if _holds("iptables", "-w", "-C", "FORWARD", *_forward_rule(bridge, direction)):
            _run("iptables", "-w", "-D", "FORWARD", *_forward_rule(bridge, direction))
    if not has_interface(bridge):
        return
    for port in json.loads(_run("ip", "-j", "link", "show", "master", bridge)):
        # A pod's network namespace may disappear meanwhile, and its end with it.
        _holds("ip", "link", "delete", port["ifname"])
    _run("ip", "link", "delete", bridge)


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


def _run(*argv: str, input_text: str | None = None) -> str:
    return check(argv, input_text=input_text, env=daemon_environment())


def _holds(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, env=dict(daemon_environment()), check=False).returncode == 0
