"""Control: the state for the operator, the sizes from it, and the loop that keeps both up to date."""
