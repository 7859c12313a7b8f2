"""Checks pod templates against Kubernetes' Pod Security Standards. Pure.

Who may write a SpongeService has its pods made with the operator's rights. `violations` names each field of a template
that the level does not allow; `added_violations` leaves out what the operator's own template has already. The rules are
those of Kubernetes 1.36, https://kubernetes.io/docs/concepts/security/pod-security-standards/, without its relaxations
for user namespaces and for Windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["Level", "Violation", "added_violations", "violations"]

Level = Literal["restricted", "baseline", "privileged"]
"""The standard's levels, strictest first; `privileged` allows everything."""

CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")
HANDLERS = (
    *(("livenessProbe",), ("readinessProbe",), ("startupProbe",)),
    *(("lifecycle", "postStart"), ("lifecycle", "preStop")),
)
PROGRAM = ("image", "command", "args", *dict.fromkeys(steps[0] for steps in HANDLERS))
DEFAULT_CAPABILITIES = frozenset(
    {
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
        *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    }
)
SAFE_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    }
)
SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
VOLUME_KINDS = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim"),
        *("projected", "secret"),
    }
)
PROFILES = ("RuntimeDefault", "Localhost")
APP_ARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One field that the level does not allow.

    Attributes:
        field: its path, with the names of containers and volumes.
        needs: what would be allowed, for example "must be absent".
        found: what is there and what has it, for comparison.
    """

    field: str
    needs: str
    found: str

    def __str__(self) -> str:
        return f"{self.field} {self.needs}"


def violations(template: Mapping[str, Any], level: Level) -> tuple[Violation, ...]:
    """Every field of a pod template that the level does not allow, sorted."""
    if level == "privileged":
        return ()
    spec, restricted = _map(template.get("spec")), level == "restricted"
    found = [*_of_metadata(_map(template.get("metadata"))), *_of_pod(spec, restricted=restricted)]
    for path, container in _containers(spec):
        # What is allowed to a program is not allowed to another one in its place.
        program = json.dumps({key: container.get(key) for key in PROGRAM}, sort_keys=True, default=str)
        of_this = _of_container(path, container, spec, restricted=restricted)
        found += [replace(one, found=f"{one.found} {program}") for one in of_this]
    return tuple(sorted(set(found)))


def added_violations(template: Mapping[str, Any], trusted: Mapping[str, Any], level: Level) -> tuple[Violation, ...]:
    """Those of `template` that `trusted` does not have in the same field with the same value."""
    return tuple(sorted({*violations(template, level)} - {*violations(trusted, level)}))


def _of_metadata(metadata: Mapping[str, Any]) -> Iterator[Violation]:
    for key, value in _map(metadata.get("annotations")).items():
        if key.startswith(APP_ARMOR_ANNOTATION) and not (
            value in ("", "runtime/default") or str(value).startswith("localhost/")
        ):
            yield _violation(f"metadata.annotations[{key}]", "must be runtime/default, localhost/… or absent", value)


def _of_pod(spec: Mapping[str, Any], *, restricted: bool) -> Iterator[Violation]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        yield from _unless_false(f"spec.{name}", spec.get(name))
    for volume in _maps(spec.get("volumes")):
        yield from _of_volume(volume, spec, restricted=restricted)
    context = _map(spec.get("securityContext"))
    for sysctl in _maps(context.get("sysctls")):
        if sysctl.get("name") not in SAFE_SYSCTLS:
            yield _violation(f"spec.securityContext.sysctls[{sysctl.get('name')}]", "must be absent", sysctl)
    yield from _of_context("spec.securityContext", context, restricted=restricted)


def _of_volume(volume: Mapping[str, Any], spec: Mapping[str, Any], *, restricted: bool) -> Iterator[Violation]:
    name = volume.get("name")
    kinds = {kind for kind, source in volume.items() if kind != "name" and source is not None}
    for kind in sorted(kinds - VOLUME_KINDS if restricted else kinds & {"hostPath"}):
        # Who mounts it counts, too: a volume that is allowed to one container is not allowed to the next.
        mounts = [
            (path, mount)
            for path, container in _containers(spec)
            for mount in _maps(container.get("volumeMounts"))
            if mount.get("name") == name
        ]
        yield _violation(f"spec.volumes[{name}].{kind}", "must be absent", [volume[kind], mounts])


def _of_container(
    path: str, container: Mapping[str, Any], spec: Mapping[str, Any], *, restricted: bool
) -> Iterator[Violation]:
    context, where = _map(container.get("securityContext")), f"{path}.securityContext"
    yield from _unless_false(f"{where}.privileged", context.get("privileged"))
    yield from _of_context(where, context, restricted=restricted)
    if context.get("procMount") not in (None, "Default"):
        yield _violation(f"{where}.procMount", 'must be "Default" or absent', context["procMount"])
    for port in _maps(container.get("ports")):
        if port.get("hostPort"):
            yield _violation(f"{path}.ports[{port.get('containerPort')}].hostPort", "must be absent", port["hostPort"])
    for steps in HANDLERS:
        handler: Mapping[str, Any] = container
        for step in steps:
            handler = _map(handler.get(step))
        for action in ("httpGet", "tcpSocket"):
            if host := _map(handler.get(action)).get("host"):
                yield _violation(f"{path}.{'.'.join(steps)}.{action}.host", "must be absent", host)
    yield from _of_capabilities(f"{where}.capabilities", _map(context.get("capabilities")), restricted=restricted)
    if restricted:
        if context.get("allowPrivilegeEscalation") is not False:
            yield _violation(
                f"{where}.allowPrivilegeEscalation", "must be false", context.get("allowPrivilegeEscalation")
            )
        of_pod = _map(spec.get("securityContext"))
        if context.get("runAsNonRoot") is None and of_pod.get("runAsNonRoot") is not True:
            yield _violation(f"{where}.runAsNonRoot", "must be true", None)
        if context.get("seccompProfile") is None and _map(of_pod.get("seccompProfile")).get("type") not in PROFILES:
            yield _violation(f"{where}.seccompProfile.type", f"must be {' or '.join(PROFILES)}", None)


def _of_context(where: str, context: Mapping[str, Any], *, restricted: bool) -> Iterator[Violation]:
    """What pods and containers have in common."""
    yield from _unless_false(
        f"{where}.windowsOptions.hostProcess", _map(context.get("windowsOptions")).get("hostProcess")
    )
    seccomp = context.get("seccompProfile")
    if seccomp is not None and _map(seccomp).get("type") not in PROFILES:
        yield _violation(f"{where}.seccompProfile.type", f"must be {' or '.join(PROFILES)}", seccomp)
    armor = context.get("appArmorProfile")
    if armor is not None and _map(armor).get("type") not in PROFILES:
        yield _violation(f"{where}.appArmorProfile.type", f"must be {' or '.join(PROFILES)}", armor)
    selinux = _map(context.get("seLinuxOptions"))
    if selinux.get("type") not in (None, *SELINUX_TYPES):
        yield _violation(f"{where}.seLinuxOptions.type", "must be one of the container types or absent", selinux)
    for name in ("user", "role"):
        if selinux.get(name):
            yield _violation(f"{where}.seLinuxOptions.{name}", "must be absent", selinux[name])
    if restricted:
        if context.get("runAsNonRoot") not in (None, True):
            yield _violation(f"{where}.runAsNonRoot", "must be true", context["runAsNonRoot"])
        if context.get("runAsUser") is not None and not context["runAsUser"]:
            yield _violation(f"{where}.runAsUser", "must not be 0", context["runAsUser"])


def _of_capabilities(where: str, capabilities: Mapping[str, Any], *, restricted: bool) -> Iterator[Violation]:
    allowed = {"NET_BIND_SERVICE"} if restricted else DEFAULT_CAPABILITIES
    for name in _list(capabilities.get("add")):
        if name not in allowed:
            yield _violation(f"{where}.add", f"must not have {name}", name)
    if restricted and "ALL" not in _list(capabilities.get("drop")):
        yield _violation(f"{where}.drop", "must have ALL", capabilities.get("drop"))


def _unless_false(field: str, value: object) -> Iterator[Violation]:
    if value is not None and value is not False:
        yield _violation(field, "must be false or absent", value)


def _violation(field: str, needs: str, found: object) -> Violation:
    return Violation(field, needs, json.dumps(found, sort_keys=True, default=str))


def _containers(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind in CONTAINER_LISTS:
        for container in _maps(spec.get(kind)):
            yield f"spec.{kind}[{container.get('name')}]", container


# What has another form than the API's is left to the API server, which refuses it.


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [one for one in _list(value) if isinstance(one, Mapping)]
