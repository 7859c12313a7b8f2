"""Runtimes beside torch: each runs a model's batches in the lanes, on the thread count chosen for the batch.

A runtime starts threads of its own, which no fork may copy. So the fork server only reads the model, in another
process, and every lane opens the model for itself after it was forked. A thread pool of a fixed size is opened once for
each thread count, at its first use.
"""
