"""Classical baselines: support vector machines, random forests, class means."""
