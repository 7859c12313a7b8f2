"""Planners: from what a server sees to sizes and their misses, from those to one size, and one node shared by many."""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
