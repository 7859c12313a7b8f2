"""Dispatch policies, one file each: the rule of Sponge, and the published rules of other systems."""
