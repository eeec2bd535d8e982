"""Files that installed packages register by entry point."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from mmrs_bench.errors import ConfigError


def entry_point_paths(group: str) -> list[tuple[str, Path]]:
    """Names and paths of the entry points of a group, sorted by name.

    Raises:
        ConfigError: If an entry point cannot be loaded, its value is not a ``pathlib.Path``, or its name is not unique.
    """
    return list(_entry_point_paths(group, tuple(sys.path)))


@cache
def _entry_point_paths(group: str, _search_path: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """Read the metadata of all installed packages once, because that takes 10 ms."""
    found: dict[str, Path] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        package = entry.dist.name if entry.dist else "an installed package"
        where = f"{package}: entry point {entry.name!r} ({entry.value}) of group {group}"
        try:
            path = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{where} cannot be loaded: {error}; fix the package or uninstall it") from error
        if not isinstance(path, Path):
            raise ConfigError(f"{where} is {type(path).__name__}, expected the pathlib.Path of a YAML file")
        if entry.name in found:
            raise ConfigError(f"{where} has the name of another one; uninstall one of the two packages")
        found[entry.name] = path
    return tuple(found.items())
