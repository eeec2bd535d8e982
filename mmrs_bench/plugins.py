"""Files that installed packages register by entry point."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from mmrs_bench.errors import ConfigError


def entry_point_paths(group: str) -> list[tuple[str, Path]]:
    """Names and values of the entry points of a group, ordered by name.

    Only the module that holds the path is imported, never a method's code.

    Raises:
        ConfigError: If an entry point cannot be loaded, its value is not a ``pathlib.Path``, or two packages use one
            name; package and entry point are named.
    """
    found: dict[str, Path] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        package = entry.dist.name if entry.dist else "an installed package"
        try:
            path = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{package}: entry point {entry.name!r} ({entry.value}) of group {group} cannot be loaded: {error}; "
                "correct the package or uninstall it"
            ) from error
        if not isinstance(path, Path):
            raise ConfigError(
                f"{package}: entry point {entry.name!r} ({entry.value}) of group {group} is "
                f"{type(path).__name__}, expected the pathlib.Path of a YAML file"
            )
        if entry.name in found:
            raise ConfigError(f"{package}: the name {entry.name!r} in group {group} is taken; uninstall one of the two")
        found[entry.name] = path
    return list(found.items())
