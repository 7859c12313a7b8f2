"""Sponge's server and its peers, side by side: the same model, the same CPU limit, the same requests.

`python -m bench.serving --help` lists the steps; docs/research/serving-benchmark.md says what is measured, and why it
is fair.
"""
