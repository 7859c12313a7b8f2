"""The peers' servers: scripts that run in each peer's own environment and import nothing of Sponge's packages."""
