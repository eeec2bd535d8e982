"""Scenes: manifests, files, splits, normalisation, windows. Knows no model."""
