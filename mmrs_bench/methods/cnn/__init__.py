"""A small CNN trained from scratch: the plain deep baseline."""
