"""The simulated scene: landscape, sensors, and the bound on pixelwise accuracy."""
