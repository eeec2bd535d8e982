"""The public Python API. Import its names from `mmrs_bench`, which loads them at the first access."""
