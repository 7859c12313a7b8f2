"""Kubernetes quantities and times as plain numbers: CPU in cores or millicores, memory in bytes, time in seconds.

Compare sizes as numbers only, because the API writes the same size in several ways ("2", "2000m").
"""

from __future__ import annotations

import math
import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from sponge_core.errors import SpongeError

__all__ = ["cores_text", "cpu_quantity", "milli_of", "parse_bytes", "parse_cores", "parse_cpu_milli", "parse_time_s"]

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]?i?)")
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _parse(text: str | int | float) -> Decimal:
    match = _QUANTITY.fullmatch(str(text))
    try:
        if match is None:
            raise InvalidOperation
        return Decimal(match[1]) * _SUFFIXES[match[2]]
    except (InvalidOperation, KeyError):
        raise SpongeError(f"{text!r} is not a Kubernetes quantity; write for example 250m, 1.5 or 512Mi") from None


def parse_cpu_milli(text: str | int) -> int:
    """Millicores of a CPU quantity such as "250m", "1.5" or 2, rounded up like at the API.

    Raises:
        SpongeError: `text` is no quantity.
    """
    return _milli(text)


@lru_cache(maxsize=4096)
def _milli(text: str | int) -> int:
    # The operator reads the same few sizes again and again: of every pod of a node, at every look.
    return int((_parse(text) * 1000).to_integral_value(rounding="ROUND_CEILING"))


def parse_cores(text: str | int | float) -> float:
    """Cores of a CPU quantity such as "250m", "1.5" or 2. Raises SpongeError for anything else."""
    return float(_parse(text))


def milli_of(cores: float) -> int:
    """Millicores of `cores`, rounded up and at least 1; differences below a millionth of a millicore are ignored."""
    return max(1, math.ceil(cores * 1000 - 1e-6))


def parse_bytes(text: str | int) -> int:
    """Bytes of a memory quantity such as "512Mi", rounded up. Raises SpongeError for anything else."""
    return int(_parse(text).to_integral_value(rounding="ROUND_CEILING"))


def parse_time_s(text: str) -> float:
    """Seconds of a time such as "500ms", "1.5s", "10m" or "2h". Raises SpongeError for anything else."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise SpongeError(f"{text!r} is not a time; write for example 500ms or 1.5s")
    return float(match[1]) / 1000 if match[2] == "ms" else float(match[1]) * _SECONDS[match[2]]


def cpu_quantity(milli: int) -> str:
    """The quantity of `milli` millicores as the API server writes it: "2" or "1500m"."""
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def cores_text(milli: int) -> str:
    """Cores of `milli` millicores for people: "1.5", "2" or "0.125"."""
    return f"{milli / 1000:.3f}".rstrip("0").rstrip(".")
