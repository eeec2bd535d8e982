"""Files of scenes: fetching, verifying, reading."""
