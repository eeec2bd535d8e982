"""Methods: one paper, one file; each binds scenes and models."""
