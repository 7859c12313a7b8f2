"""Access to Linux: CPU cgroups, process memory, scheduling of threads, the cache folder, compiling of modules."""
