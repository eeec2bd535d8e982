"""Pages of the documentation site that are generated from code, cards, manifests and records (see ``mkdocs.yml``)."""
