"""Measures profiles: runs the grid of batch sizes and threads, here or in a cluster, keeps checkpoints, reports."""
