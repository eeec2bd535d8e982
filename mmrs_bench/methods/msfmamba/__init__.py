"""MSFMamba (Gao et al. 2025)."""
