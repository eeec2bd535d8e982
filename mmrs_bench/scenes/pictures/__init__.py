"""RGB-like pictures and tiles of scenes, for networks that take images."""
