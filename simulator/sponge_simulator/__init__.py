"""Virtual time around the production core: the same queue, dispatch rule and planners, without a server or a
cluster."""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
