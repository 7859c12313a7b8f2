"""`python -m bench.served_variant NAME serve ...`: runs `sponge` with a variant of the dispatch rule as its default.

Variants are for ablations. The command itself does not offer them.
"""

from __future__ import annotations

import sys

from sponge_cli.main import main
from sponge_core.dispatch.registry import DEFAULT, POLICIES
from sponge_simulator.ablation import VARIANTS

if __name__ == "__main__":
    POLICIES[DEFAULT] = VARIANTS[sys.argv.pop(1)]
    main()
