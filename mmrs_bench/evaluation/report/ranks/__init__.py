"""Ranks of methods over several scenes."""
