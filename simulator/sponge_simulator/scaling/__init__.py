"""Scaling policies, one file each: ours, others' by their published mechanisms, and the bound that none beats.

`interface` is what a policy is told and what it answers, `registry` names them all. Each is a pure function of what it
saw: the simulator runs them in virtual time, and none knows that it does.
"""
