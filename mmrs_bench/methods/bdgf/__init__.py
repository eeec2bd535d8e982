"""BDGF (Liu et al. 2025)."""
