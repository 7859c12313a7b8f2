"""Until when a certificate is valid. The standard library shows that of a peer's certificate only, not of one's own."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

__all__ = ["expires_at"]

BEGIN, END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"

SEQUENCE, VERSION, UTC_TIME, GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
"""Tags of DER, the encoding of certificates."""


def expires_at(pem: bytes) -> float:
    """The end of validity of the first certificate, in epoch seconds. Raises ValueError if there is none."""
    begin = pem.find(BEGIN)
    end = pem.find(END, begin)
    if begin < 0 or end < 0:
        raise ValueError("no certificate in PEM")
    der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(END)].decode("ascii"))
    certificate = _parts(_content(_parts(der)[0], SEQUENCE))
    signed = _parts(_content(certificate[0], SEQUENCE))
    if signed[0][0] == VERSION:
        del signed[0]
    # serial number, algorithm, issuer, validity, ...
    if len(signed) < 4:
        raise ValueError("a certificate without validity")
    return _time(_parts(_content(signed[3], SEQUENCE))[-1])


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
