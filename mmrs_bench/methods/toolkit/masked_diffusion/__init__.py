"""Pretraining by masked diffusion, as several methods use it."""
