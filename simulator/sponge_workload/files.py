"""Finds and reads trace files, and says what stands in for one that is not there.

The recorded 4G trace is public but not ours to ship: it is read where the user has it, else a synthetic one with its
statistics takes its place.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sponge_core.errors import TraceError
from sponge_workload.traces import (
    BandwidthTrace,
    burst_arrivals,
    parse_arrivals,
    parse_bandwidth,
    poisson_arrivals,
    synthetic_4g,
    synthetic_bursts,
    thin_arrivals,
    visit_arrivals,
)

__all__ = ["find_4g_trace", "load_arrivals", "load_bandwidth", "read_lines", "recordings_here"]

GHENT_FILE = "ghent_4g_bus_0001.log"
RECORDED_ARRIVALS = {
    "twitter": "twitter_2021_bursty_rps.txt",
    "azure-code": "azure_llm_2023_code.csv.gz",
    "azure-conv": "azure_llm_2023_conv.csv.gz",
}
AZURE_CONV_RPS = 5.5
TRACES_VARIABLE = "SPONGE_TRACES"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
SYNTHETIC_S = 600


def find_4g_trace(environment: Mapping[str, str], project_root: Path = PROJECT_ROOT) -> Path | None:
    """The recorded 4G trace: in the folder that SPONGE_TRACES names, else beside the project; None when absent."""
    return _find(GHENT_FILE, environment, project_root)


def recordings_here(environment: Mapping[str, str], project_root: Path = PROJECT_ROOT) -> list[str]:
    """The file names of those recordings, of an uplink or of arrivals, that are there; synthetic ones replace the
    others."""
    names = (GHENT_FILE, *RECORDED_ARRIVALS.values())
    return sorted(name for name in names if _find(name, environment, project_root))


def _find(name: str, environment: Mapping[str, str], project_root: Path) -> Path | None:
    folder = environment.get(TRACES_VARIABLE)
    path = Path(folder) if folder else project_root.parent / "shared" / "traces"
    found = path / name
    return found if found.is_file() else None


def load_bandwidth(source: str, seed: int, environment: Mapping[str, str]) -> BandwidthTrace | None:
    """The uplink that `source` names.

    Args:
        source: `none` (no network), `synthetic`, `4g` (the recorded trace if it is there, else synthetic) or a file.

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
    """Arrival times in [0, duration_s).

    Args:
        source: `poisson`, `burst`, `visits` (ten seconds after minutes of silence), `twitter`, `azure-code` or
            `azure-conv` (the recording if it is there, else one drawn with its statistics) or a file of arrivals.
        rate_rps: requests per second, during a visit for those; for a recording the rate to thin it to, None for its
            own.

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
    """Name and arrivals of a recording, or of what stands in for one that is not there."""
    path = Path(source)
    if source in RECORDED_ARRIVALS:
        found = _find(RECORDED_ARRIVALS[source], environment, PROJECT_ROOT)
        if found is None and source == "azure-conv":  # its counts scatter hardly more than Poisson's
            return f"synthetic {source}", poisson_arrivals(AZURE_CONV_RPS, duration_s, seed)
        if found is None:
            kind: Literal["twitter", "azure-code"] = "twitter" if source == "twitter" else "azure-code"
            return f"synthetic {source}", synthetic_bursts(kind, duration_s, seed)
        path = found
    parsed = parse_arrivals(read_lines(path), path.name, seed)
    return path.name, tuple(at for at in parsed if at < duration_s)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, gzipped or not. Raises TraceError when it cannot be read."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                return stream.readlines()
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TraceError(f"{path}: cannot be read ({reason}); give the path of a trace file, or 'synthetic'") from None
