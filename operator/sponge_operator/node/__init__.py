"""Shares the CPU of a node among its driven pods."""
