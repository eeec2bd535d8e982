"""Coupled CNNs (Hang et al. 2020)."""
