"""MFT (Roy et al. 2023)."""
