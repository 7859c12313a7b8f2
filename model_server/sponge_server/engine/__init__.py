"""Runs requests: engine, scheduler, CPU quota, and the server's own CPU use."""
