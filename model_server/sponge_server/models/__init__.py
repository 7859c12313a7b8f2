"""Model sources: one module per kind of source, which makes a `LoadedModel` from a URL.

Models are loaded in the fork server only. Nothing here may run a batch on more than one thread, because a team of
threads does not survive the forks that follow.
"""
