"""HCT (Zhao et al. 2023)."""
