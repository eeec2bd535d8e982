"""The interactive page of results: one HTML file without a network."""
