"""Records of results: fields, files, metrics, signatures, provenance."""
