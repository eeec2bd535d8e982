"""Scenes: manifests, files, splits, normalisation, windows."""
