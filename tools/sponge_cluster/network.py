"""What the native cluster changes in the machine's network and kernel settings, and taking exactly that back.

A bridge, two FORWARD rules, kube-proxy's iptables chains, a few sysctls. The parts that decide what to remove are pure.
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
    # The kubelet sets these; we only put them back.
    "vm/overcommit_memory": None,
    "vm/panic_on_oom": None,
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/keys/root_maxbytes": None,
}
"""Below /proc/sys: the value that the cluster needs, or None where one of its parts writes it."""

_FAMILIES = ("iptables", "ip6tables")


def routes() -> list[str]:
    """The address ranges that this machine has routes for."""
    listed = json.loads(_run("ip", "-j", "-4", "route", "show", "table", "all"))
    return [route["dst"] for route in listed if route["dst"][0].isdigit()]


def has_interface(name: str) -> bool:
    """Whether a network interface of that name exists. Asked by `ip`: /sys may show another network namespace's."""
    return _holds("ip", "link", "show", "dev", name)


def create_bridge(layout: Layout) -> None:
    """Makes the bridge with the host's address on it, and lets forwarded packets of the pods through."""
    length = layout.pod_cidr.split("/")[1]
    _run("ip", "link", "add", layout.bridge, "type", "bridge")
    _run("ip", "address", "add", f"{layout.gateway}/{length}", "dev", layout.bridge)
    _run("ip", "link", "set", layout.bridge, "up")
    # A machine may drop what it forwards by default (Docker's does).
    for direction in ("-i", "-o"):
        _run("iptables", "-w", "-I", "FORWARD", *_forward_rule(layout.bridge, direction))


def _forward_rule(bridge: str, direction: str) -> list[str]:
    return [direction, bridge, "-m", "comment", "--comment", f"sponge {bridge}", "-j", "ACCEPT"]


def remove_bridge(bridge: str) -> None:
    """Removes the bridge, the pods' ends on it and the two rules; what is not there is fine."""
    for direction in ("-i", "-o"):
        if _holds("iptables", "-w", "-C", "FORWARD", *_forward_rule(bridge, direction)):
            _run("iptables", "-w", "-D", "FORWARD", *_forward_rule(bridge, direction))
    if not has_interface(bridge):
        return
    for port in json.loads(_run("ip", "-j", "link", "show", "master", bridge)):
        # A pod's network namespace may be going at this moment, and takes its end with it.
        _holds("ip", "link", "delete", port["ifname"])
    _run("ip", "link", "delete", bridge)


def remove_chains() -> None:
    """Removes every chain of kube-proxy's; the caller has made sure that no other kube-proxy runs here."""
    for family in _FAMILIES:
        for table in ("filter", "nat", "mangle"):
            if not _holds(family, "-w", "-t", table, "-S", "KUBE-PROXY-CANARY"):
                # The canary is in every table that kube-proxy ever wrote to; reading the rest would only take time.
                continue
            if script := removal_script(table, _run(f"{family}-save", "-t", table)):
                _run(f"{family}-restore", "-w", "--noflush", input_text=script)


def removal_script(table: str, saved: str) -> str:
    """Input for iptables-restore --noflush that removes the KUBE- chains in iptables-save's output; "" for none."""
    chains = re.findall(r"^:(KUBE-\S+)", saved, re.MULTILINE)
    if not chains:
        return ""
    jumps = re.findall(r"^-A (?!KUBE-)(.* (?:-j|-g) KUBE-.*)$", saved, re.MULTILINE)
    # Naming a chain flushes it, after which nothing refers to it any more and all can go in one transaction.
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
