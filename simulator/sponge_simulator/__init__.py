"""Virtual time around the production core: the same queue, dispatch rule and planners, without a server or a
cluster."""

from sponge_core.compiled import look_there_first

__all__ = ["MODULES"]

MODULES = ("fleet", "replica")
"""What every event runs through; compiled where the core is."""

look_there_first(__name__, __path__, MODULES)
