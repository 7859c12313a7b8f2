"""Log lines as `time level event key=value ...` on stderr: fields, not prose.

Knows nothing of what is logged. Use `event(logger, "resize.applied", cores=1.5, took_s=0.03)`.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["event", "set_up"]


def event(logger: logging.Logger, name: str, level: int = logging.INFO, /, **fields: object) -> None:
    """Logs one event with its fields; values with spaces are quoted."""
    if logger.isEnabledFor(level):
        logger.log(level, "%s", " ".join([name, *(f"{key}={_shown(value)}" for key, value in fields.items())]))


def set_up(level: str) -> None:
    """Sends every logger of the process to stderr in the one format."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The HTTP library narrates its own life; only its complaints are of interest.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return repr(text) if " " in text or not text else text
