"""Latency profiles: the file format, the fit of l(b, k), interpolation, validation, and timing of batches.

Timing works with any engine: the caller passes a function that runs a batch. The server's quick profile uses it, and
`sponge_profiler` measures whole grids with it.
"""
