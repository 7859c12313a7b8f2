"""Lanes: inference workers that run one batch at a time, each on the number of threads that the batch was given.

`interface` is what the rest of the server knows. `forked` implements it with processes forked from a warm zygote; only
the zygote and the lanes import torch, never the process that imports this package.
"""
