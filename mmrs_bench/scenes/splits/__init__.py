"""Support and query pixels of a scene, and the leakage audit."""
