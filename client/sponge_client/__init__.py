"""Client of any Open Inference Protocol server that honours deadlines, and an open-loop load generator for it.

Every request carries its send time and the time that its answer may take.
"""
