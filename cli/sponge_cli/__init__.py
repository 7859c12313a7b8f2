"""The `sponge` command: one module a subcommand, each imports its part only when it is called."""
