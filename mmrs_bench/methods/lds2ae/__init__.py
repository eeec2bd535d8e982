"""LDS2AE (Qu et al. 2024)."""
