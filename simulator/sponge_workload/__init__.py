"""Workloads: the bandwidth of uplinks, arrival times of requests, and the files that hold recordings of both."""
