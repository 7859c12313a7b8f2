"""What the handlers call: the children of a service, the loop over its pods, and the status they leave."""
