"""Lanes: inference workers that run one batch at a time, on the number of threads chosen for the batch.

The rest of the server uses `interface`. `pool` implements it with processes forked from a warm fork server. Only the
fork server and the lanes import torch, never the server's own process.
"""
