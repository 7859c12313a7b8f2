"""Scaling policies for the simulator, one file each: those of Sponge, and other systems' by their published mechanisms.

`interface` defines what a policy sees and returns, `registry` names the policies. Each is a pure function of what it
has seen.
"""
