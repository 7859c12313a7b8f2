"""Virtual time around the production core: the same queue, dispatch rule and planners, without a server or a
cluster."""
