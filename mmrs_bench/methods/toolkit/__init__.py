"""Parts that several methods share: training, saving, caches."""
