"""Worker pools on clusters: profiles, groups of cells by resource, Slurm, Ray, detached runs."""
