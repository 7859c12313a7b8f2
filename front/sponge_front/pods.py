"""The pods of a service: their addresses, and how they are written on the command line."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sponge_core.addresses import authority
from sponge_core.errors import SpongeError

__all__ = ["Pod", "ip_of", "parse_pod"]


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod.

    Attributes:
        name: unique in its service.
        host: IP address.
        http_port, grpc_port, control_port: of the server.
    """

    name: str
    host: str
    http_port: int
    grpc_port: int
    control_port: int

    @property
    def http(self) -> str:
        """Address of the REST port, as proxies write it."""
        return authority(self.host, self.http_port)

    @property
    def grpc(self) -> str:
        """Address of the gRPC port."""
        return authority(self.host, self.grpc_port)

    @property
    def control(self) -> str:
        """Address of the control port."""
        return authority(self.host, self.control_port)


def ip_of(text: str) -> str | None:
    """An IP address in the form in which the proxy names it, too; None for a name, which the proxy does not look up."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def parse_pod(text: str) -> Pod:
    """A pod from `ADDRESS,HTTP_PORT,GRPC_PORT,CONTROL_PORT`, its own name. Raises SpongeError."""
    address, *ports = text.split(",")
    if len(ports) != 3 or not all(port.isdecimal() and 0 < int(port) < 65536 for port in ports):
        raise SpongeError(f"pod {text!r}: write ADDRESS,HTTP_PORT,GRPC_PORT,CONTROL_PORT, as 10.0.0.7,8080,8081,9090")
    host = ip_of(address)
    if host is None:
        raise SpongeError(f"pod {text!r}: {address!r} is no IP address; write one, as 10.0.0.7 or fd00::7")
    http_port, grpc_port, control_port = map(int, ports)
    return Pod(text, host, http_port, grpc_port, control_port)
