"""MIViT (Zhang et al. 2024)."""
