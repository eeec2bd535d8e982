"""CNN baseline."""
