"""Cells, their computation, their results, and reports. No method is named here."""
