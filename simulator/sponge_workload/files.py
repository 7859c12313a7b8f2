"""Finds and reads trace files; synthetic traces stand in for recordings that are not at hand.

The recordings are public, but not ours to ship. They are read from the folder that the variable SPONGE_TRACES names.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sponge_core.errors import TraceError
from sponge_workload.arrivals import burst_arrivals, parse_arrivals, poisson_arrivals, thin_arrivals, visit_arrivals
from sponge_workload.bandwidth import BandwidthTrace, parse_bandwidth
from sponge_workload.synthetic import synthetic_4g, synthetic_bursts

__all__ = ["TRACES_VARIABLE", "find_4g_trace", "load_arrivals", "load_bandwidth", "read_lines", "recordings_here"]

TRACES_VARIABLE = "SPONGE_TRACES"
"""The environment variable with the folder of the recordings."""

GHENT_FILE = "ghent_4g_bus_0001.log"
RECORDED_ARRIVALS = {
    "twitter": "twitter_2021_bursty_rps.txt",
    "azure-code": "azure_llm_2023_code.csv.gz",
    "azure-conv": "azure_llm_2023_conv.csv.gz",
}
AZURE_CONV_RPS = 5.5
SYNTHETIC_S = 600


def find_4g_trace(environment: Mapping[str, str]) -> Path | None:
    """The recorded 4G trace in the folder that SPONGE_TRACES names; None if it is not there."""
    return _find(GHENT_FILE, environment)


def recordings_here(environment: Mapping[str, str]) -> list[str]:
    """File names of the recordings (of an uplink or of arrivals) that are there; synthetic ones replace the others."""
    names = (GHENT_FILE, *RECORDED_ARRIVALS.values())
    return sorted(name for name in names if _find(name, environment))


def _find(name: str, environment: Mapping[str, str]) -> Path | None:
    folder = environment.get(TRACES_VARIABLE)
    found = Path(folder) / name if folder else None
    return found if found is not None and found.is_file() else None


def load_bandwidth(source: str, seed: int, environment: Mapping[str, str]) -> BandwidthTrace | None:
    """Loads the uplink that `source` names; None for `none`.

    Args:
        source: `none` (no network), `synthetic`, `4g` (the recorded trace if it is there, else synthetic) or a file.
        seed: of a synthetic trace.
        environment: where SPONGE_TRACES is looked up.

    Raises:
        TraceError: the file is missing or has a broken row.
    """
    if source == "none":
        return None
    if source == "4g":
        found = find_4g_trace(environment)
        source = str(found) if found else "synthetic"
    if source == "synthetic":
        return synthetic_4g(SYNTHETIC_S, seed)
    path = Path(source)
    return parse_bandwidth(read_lines(path), path.name)


def load_arrivals(
    source: str, rate_rps: float | None, duration_s: float, seed: int, environment: Mapping[str, str]
) -> tuple[float, ...]:
    """Loads or draws arrival times, in seconds in [0, duration_s), ascending.

    Args:
        source: `poisson`, `burst`, `visits` (ten seconds after minutes of silence), `twitter`, `azure-code` or
            `azure-conv` (the recording if it is there, else one drawn with its statistics) or a file of arrivals.
        rate_rps: requests per second; of `visits`, during a visit; of a recording, the rate to thin it to, or None for
            its own.

    Raises:
        TraceError: the file is missing, has a broken row, or fewer arrivals than the rate asks for.
    """
    if source in ("poisson", "burst", "visits"):
        if rate_rps is None:
            raise TraceError(f"--arrivals {source} needs --rate, in requests per second")
        if source == "burst":
            return burst_arrivals(rate_rps, duration_s)
        draw = poisson_arrivals if source == "poisson" else visit_arrivals
        return draw(rate_rps, duration_s, seed)
    name, arrivals = _recorded(source, duration_s, seed, environment)
    if rate_rps is None:
        return arrivals
    own_rps = len(arrivals) / duration_s
    if own_rps < rate_rps:
        raise TraceError(f"{name}: {own_rps:.1f} requests/s in the first {duration_s:g} s; lower --rate {rate_rps:g}")
    return thin_arrivals(arrivals, rate_rps / own_rps, seed)


def _recorded(
    source: str, duration_s: float, seed: int, environment: Mapping[str, str]
) -> tuple[str, tuple[float, ...]]:
    """The name and arrivals of a recording, or of the synthetic one that stands in for it."""
    path = Path(source)
    if source in RECORDED_ARRIVALS:
        found = _find(RECORDED_ARRIVALS[source], environment)
        if found is None and source == "azure-conv":  # its counts vary hardly more than Poisson's
            return f"synthetic {source}", poisson_arrivals(AZURE_CONV_RPS, duration_s, seed)
        if found is None:
            kind: Literal["twitter", "azure-code"] = "twitter" if source == "twitter" else "azure-code"
            return f"synthetic {source}", synthetic_bursts(kind, duration_s, seed)
        path = found
    parsed = parse_arrivals(read_lines(path), path.name, seed)
    return path.name, tuple(at for at in parsed if at < duration_s)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, gzipped or not. Raises TraceError if it cannot be read."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                return stream.readlines()
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: cannot be read ({reason}); give the path of a trace file, or 'synthetic'") from None
