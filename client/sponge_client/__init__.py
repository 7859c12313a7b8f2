"""Client of any Open Inference Protocol server that honours deadlines, and an open-loop load generator for it.

Every request carries when it was sent and how long its answer may take. Knows the protocol and the network, nothing of
how a server schedules or who sizes it.
"""
