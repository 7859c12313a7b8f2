"""What Sponge is compared with: others' policies by their published mechanisms, and the bound that none beats."""
