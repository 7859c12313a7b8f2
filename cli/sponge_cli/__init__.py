"""The `sponge` command: one module per subcommand, which parses options and calls one function of a package."""
