"""Malformed requests over every protocol, from a seed."""
