"""Planners: how many cores, and which batch cap. One file each; `PLANNERS` in `registry` names them for the command."""
