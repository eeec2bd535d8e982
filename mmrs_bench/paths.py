"""Folders of the checkout, the data and the cache."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFEST_DIR = REPOSITORY / "data_manifests"
BENCHMARK_DIR = REPOSITORY / "benchmarks"

DATA_VARIABLE = "MMRS_BENCH_DATA"
CACHE_VARIABLE = "MMRS_BENCH_CACHE"


def cache_root() -> Path:
    """Folder for reproducible files (splits, pretraining): ``$MMRS_BENCH_CACHE``, or the user's cache."""
    given = os.environ.get(CACHE_VARIABLE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given).expanduser() if given else home / "mmrs-bench"


def data_root() -> Path:
    """Folder with one subfolder for each real scene: ``$MMRS_BENCH_DATA``, or ``data`` in `cache_root`."""
    given = os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else cache_root() / "data"
