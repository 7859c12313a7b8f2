"""The exception tree: errors that a user can cause or repair, with messages that name the fix.

Only the edges (the command, HTTP, conditions) map them to exit codes and answers.
"""

from __future__ import annotations

__all__ = ["DISTRIBUTION", "ProfileError", "SpongeError", "TraceError", "needs_extra"]

DISTRIBUTION = "sponge-serving"
"""The name of the distribution for pip."""


class SpongeError(Exception):
    """A problem whose message is shown to the user without a traceback; exit code 2 at the command line."""


class ProfileError(SpongeError):
    """A latency profile that is missing, malformed or impossible."""


class TraceError(SpongeError):
    """A trace file that is missing or has a broken row."""


def needs_extra(what: str, package: str, extra: str) -> str:
    """The message for a missing package: what needs it, and the extra of the distribution that installs it."""
    return f"{what} needs {package}: pip install '{DISTRIBUTION}[{extra}]'"
