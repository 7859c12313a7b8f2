"""What a certificate says: until when it is valid, and for which names. The standard library shows that of a peer's
certificate only, not of one's own."""

from __future__ import annotations

import ipaddress
import re
import ssl
from datetime import UTC, datetime
from typing import Literal

__all__ = ["Name", "expires_at", "names_of", "split"]

Name = tuple[Literal["DNS", "URI", "IP_ADDRESS"], str]
"""A name of a certificate's holder, with its kind."""

ONE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

SEQUENCE, VERSION, EXTENSIONS, OCTETS, IDENTIFIER = 0x30, 0xA0, 0xA3, 0x04, 0x06
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
"""Tags of DER, the encoding of certificates."""

ALTERNATIVE_NAMES = bytes((0x55, 0x1D, 0x11))
"""2.5.29.17, the extension with the names."""


def split(pem: bytes) -> list[bytes]:
    """The certificates of a file, each in PEM; the first is the holder's, and those of authorities follow."""
    return ONE.findall(pem)


def expires_at(pem: bytes) -> float:
    """The end of validity of the first certificate, in epoch seconds. Raises ValueError if there is none."""
    # serial number, algorithm, issuer, validity, ...
    signed = _signed(pem)
    if len(signed) < 4:
        raise ValueError("a certificate without validity")
    return _time(_parts(_content(signed[3], SEQUENCE))[-1])


def names_of(pem: bytes) -> list[Name]:
    """The names of the holder of the first certificate. Raises ValueError if there is no certificate."""
    for tag, content in _signed(pem):
        if tag != EXTENSIONS:
            continue
        for extension in _parts(_content(_parts(content)[0], SEQUENCE)):
            kind, *_, value = _parts(_content(extension, SEQUENCE))  # between them: whether it is critical
            if kind == (IDENTIFIER, ALTERNATIVE_NAMES):
                found = _parts(_content(_parts(_content(value, OCTETS))[0], SEQUENCE))
                return [name for each in found if (name := _name(each)) is not None]
    return []


def _name(part: tuple[int, bytes]) -> Name | None:
    """None: of a kind that no server is asked for."""
    tag, content = part
    if tag == 0x87:
        return "IP_ADDRESS", str(ipaddress.ip_address(content))
    if tag == 0x82:
        return "DNS", content.decode("ascii")
    return ("URI", content.decode("ascii")) if tag == 0x86 else None


def _signed(pem: bytes) -> list[tuple[int, bytes]]:
    """The parts of the first certificate that its authority has signed, without the version."""
    found = ONE.search(pem)
    if found is None:
        raise ValueError("no certificate in PEM")
    der = ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
    certificate = _parts(_content(_parts(der)[0], SEQUENCE))
    signed = _parts(_content(certificate[0], SEQUENCE))
    if signed[0][0] == VERSION:
        del signed[0]
    return signed


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a sequence, each as tag and content; at least one."""
    found, at = [], 0
    while at < len(data):
        head = data[at : at + 2]
        if len(head) < 2:
            raise ValueError("a certificate that ends too early")
        tag, length = head
        at += 2
        if length >= 0x80:
            size = length - 0x80
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("a certificate that ends too early")
        found.append((tag, data[at : at + length]))
        at += length
    if not found:
        raise ValueError("a certificate with an empty part")
    return found


def _content(part: tuple[int, bytes], tag: int) -> bytes:
    if part[0] != tag:
        raise ValueError("no certificate of X.509")
    return part[1]


def _time(part: tuple[int, bytes]) -> float:
    tag, content = part
    text = content.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time where the end of validity belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
