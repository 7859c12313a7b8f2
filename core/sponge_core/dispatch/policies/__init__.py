"""Dispatch policies behind one interface, one file each: the server's own, and published ones to compare it with."""
