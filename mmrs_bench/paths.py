"""Folders of the checkout or the installed package, the data and the cache."""

from __future__ import annotations

import os
from pathlib import Path

from mmrs_bench.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
#: What an installed package contains of the checkout, laid out as there (see ``setup.py``).
_SHIPPED = _PACKAGE / "_shipped"


def _checkout() -> Path | None:
    return _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() and not _SHIPPED.exists() else None


#: The checkout that this code runs from; None in an installed package.
CHECKOUT = _checkout()
#: Folder with ``data_manifests`` and ``benchmarks``: the checkout, or its copy inside the installed package.
REPOSITORY = CHECKOUT or _SHIPPED
MANIFEST_DIR = REPOSITORY / "data_manifests"
BENCHMARK_DIR = REPOSITORY / "benchmarks"

#: What to do about a faulty or absent file in these folders.
RESTORE = "restore the committed file" if CHECKOUT else "install mmrs-bench again"

DATA_VARIABLE = "MMRS_BENCH_DATA"
CACHE_VARIABLE = "MMRS_BENCH_CACHE"


def shipped_files(folder: Path) -> list[Path]:
    """The YAML files of a folder that belongs to the package, sorted.

    Raises:
        ConfigError: If there are none.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ConfigError(f"there are no YAML files in {folder}, which belong to mmrs-bench; {RESTORE}")
    return files


def shown_path(path: Path) -> str:
    """A path of the package for texts: relative to the checkout, or absolute in an installed package."""
    return path.relative_to(CHECKOUT).as_posix() if CHECKOUT else str(path)


def cache_root() -> Path:
    """Folder for reproducible files (splits, pretraining): ``$MMRS_BENCH_CACHE``, or the user's cache."""
    given = os.environ.get(CACHE_VARIABLE)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given).expanduser() if given else home / "mmrs-bench"


def data_root() -> Path:
    """Folder with one subfolder for each real scene: ``$MMRS_BENCH_DATA``, or ``data`` in `cache_root`."""
    given = os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else cache_root() / "data"
