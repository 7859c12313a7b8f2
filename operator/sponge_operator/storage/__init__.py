"""The operator's I/O: the Kubernetes API and the servers' control ports. Nothing here decides."""
