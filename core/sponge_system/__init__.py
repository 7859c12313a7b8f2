"""Access to the operating system: cgroups, process memory, OS scheduling, the cache folder, compiled modules."""
