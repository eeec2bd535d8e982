"""The version of the suite; part of every cell's key."""

__version__ = "0.1.0"
