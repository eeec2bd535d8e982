"""Version of the package; part of the key of every cell."""

__version__ = "0.1.0"
