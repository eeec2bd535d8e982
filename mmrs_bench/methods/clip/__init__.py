"""DiffCLIP (Zhang et al. 2024), its encoder without pretraining, and CLIP's image tower."""
