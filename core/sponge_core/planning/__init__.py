"""Planning of CPU sizes.

`projection` and `frontier` turn the state of a server into sizes with their projected misses, `decider` chooses one of
them, `joint` shares a node among services, and `steady` answers for a constant rate. `paper` is the integer program of
the Sponge paper.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
