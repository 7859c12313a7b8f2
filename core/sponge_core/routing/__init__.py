"""Which pod of a service a request goes to, decided by a front that knows the pods' state a little late.

`pod_load` is what a pod publishes, `pod_table` what a front knows of its pods, and each rule in `rules` chooses one of
them; `registry` lists the rules by name. The live front and the simulator call the same functions, with the time as an
argument.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
