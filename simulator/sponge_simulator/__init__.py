"""Simulates services in virtual time, with the queue, dispatch rule and planners of the product.

The package also holds what only simulations use: scaling policies of other systems, the planner of the Sponge paper,
the ablation of the dispatch rule, and the clairvoyant bound.
"""

from sponge_compiled import look_there_first

look_there_first(__name__, __path__)
