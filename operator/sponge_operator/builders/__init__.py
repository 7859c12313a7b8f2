"""Pure builders of the manifests that a SpongeService owns, and the strategic merge they use."""
