"""Planning of CPU sizes.

`projection` and `frontier` turn the state of a server into sizes with their projected misses, `decider` chooses one of
them, `joint` shares a node among services, `replicas` decides the number of pods, and `steady` answers for a constant
rate. `steady_state` has the formulas of a constant load. `paper` is the integer program of the Sponge paper.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
