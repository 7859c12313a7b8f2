"""Lets the operator's tests use the virtual event loop that the server's tests have."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "server"))
