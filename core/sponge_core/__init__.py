"""Pure decisions: latency model, EDF queue, dispatch rule and planners.

No I/O, no threads, no clock of its own: time comes in as an argument, so the server, the operator and a virtual-time
experiment run the very same code.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
