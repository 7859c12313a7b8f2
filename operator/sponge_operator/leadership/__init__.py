"""Several operators, of which one acts: `election` decides from the Lease and the time, `leader` does it."""
