"""Dispatch: which requests start now, in which batches, on how many threads. `registry` names the policies."""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
