"""Decisions of the product: latency model, EDF queue, dispatch, forecast and planning.

Everything here is pure: no I/O, no threads, no clock. Time is an argument, so the server, the operator and a simulation
in virtual time run the same code. The package also holds the vocabulary that the parts share: control messages, CPU
quantities, datatypes and errors.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
