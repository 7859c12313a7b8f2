"""`python -m bench.served_variant NAME serve ...`: Sponge's command, a variant of its dispatch rule as the default.

Variants are for ablations; the command itself does not offer them.
"""

from __future__ import annotations

import sys

from sponge_cli.main import main
from sponge_core.dispatch.registry import DEFAULT, POLICIES, VARIANTS

if __name__ == "__main__":
    POLICIES[DEFAULT] = VARIANTS[sys.argv.pop(1)]
    main()
