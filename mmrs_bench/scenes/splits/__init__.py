"""Support, query and unlabelled pixels, and the leakage audit."""
