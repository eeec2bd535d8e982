"""ExViT (Yao et al. 2023)."""
