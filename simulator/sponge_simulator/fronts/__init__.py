"""Simulates pods that each have a queue of their own, and fronts that deal requests out to them."""
