"""Planners: how many cores, and which batch cap. One file each; `PLANNERS` in `registry` names them for the command."""

from sponge_core.compiled import look_there_first

look_there_first(__name__, __path__)
