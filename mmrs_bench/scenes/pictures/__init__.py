"""Pictures of scenes for networks that take images: pseudo-RGB, sensor images, tiles."""
