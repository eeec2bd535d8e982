"""Methods: one paper, one folder."""
