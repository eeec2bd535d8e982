"""Class maps: sheets that compare methods, and class ids as GeoTIFF with a QGIS style, or as an array."""
