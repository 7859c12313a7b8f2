"""I/O: the Kubernetes API, the cache of pods, and the control port of servers."""
