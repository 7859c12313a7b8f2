"""Latency profiles: measure l(b, k) under a real CPU limit, fit, validate, load and store.

Sits between the pure core and the parts that serve or operate. Knows nothing of HTTP, torch or Kubernetes: whoever
measures hands in a function that runs a batch.
"""
