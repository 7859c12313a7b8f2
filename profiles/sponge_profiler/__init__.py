"""Measures profiles: runs a grid of batch sizes and CPU limits, here or in a cluster, with checkpoints and a report."""
