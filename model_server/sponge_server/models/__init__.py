"""Model sources: one module a kind of source, each of which makes a `LoadedModel` from a URL.

Loading happens in the zygote process only; nothing here may run a batch on more than one thread, because a team of
threads does not survive the forks that follow.
"""
