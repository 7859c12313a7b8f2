"""What this machine's processor can do, as the kernel tells."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cpu_flags"]


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's features, such as `avx2`; empty if the kernel does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
