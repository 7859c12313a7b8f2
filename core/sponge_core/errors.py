"""The exception tree: every error that a person can cause or repair, with a message that names the fix.

Edges (the command, HTTP, conditions) map these to exit codes and answers; nothing below an edge does.
"""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "ProfileError", "SpongeError", "TraceError", "needs_extra"]

DISTRIBUTION = "sponge-serving"
"""The name that pip knows all of this by."""


class SpongeError(Exception):
    """A problem to be shown to the user as it reads, without a traceback; exit code 2 at the command line."""


class ProfileError(SpongeError):
    """A latency profile that is missing, malformed or impossible."""


class TraceError(SpongeError):
    """A trace file that is missing or has a broken row."""


def needs_extra(what: str, package: str, extra: str) -> str:
    """The message for a package that is not installed: what needs it, and the extra of the distribution that has it."""
    return f"{what} needs {package}: pip install '{DISTRIBUTION}[{extra}]'"
