"""The control port: state for the operator, new sizes from it, and the loop that keeps both current."""
