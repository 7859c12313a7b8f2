"""Workloads: bandwidth traces, arrival processes, and the files that hold them. Below client and simulator."""
