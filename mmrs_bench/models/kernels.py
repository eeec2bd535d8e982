"""Modules of kernels that numba compiles, where it is installed."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


@functools.cache
def compiled_kernels(name: str) -> ModuleType | None:
    """The module ``name`` of this package, or None without numba (extra ``fast``).

    It is imported at the first use, because the import takes half a second.
    """
    try:
        importlib.import_module("numba")
    except ImportError:
        return None
    return importlib.import_module(f"{__package__}.{name}")
