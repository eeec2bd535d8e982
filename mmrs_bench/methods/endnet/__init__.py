"""EndNet (Hong et al. 2020)."""
