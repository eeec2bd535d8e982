"""The simulated scene."""
