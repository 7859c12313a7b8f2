"""Dispatch: which requests start now, in which batches, on how many threads.

`moldable_edf` is the rule of Sponge; `policies` holds it behind the interface of all policies, beside the published
rules of other systems, and `registry` names them. The other rules are options of the product: `sponge serve --dispatch
NAME` runs each of them on the real server, so they live here and not with the simulator. Scaling policies of other
systems run only in the simulator and live there.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
