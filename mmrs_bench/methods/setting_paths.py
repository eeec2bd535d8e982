"""Paths in the settings of a method: which texts name a file, and where relative paths start.

A setting names a file as ``precomputed:<file>``, as ``open_clip:<model>/<file>``, or by its plain path. A relative path
starts at the folder of the card that contains it; in shipped cards, and after ``@mmrs-bench/``, at the checkout's root.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmrs_bench.errors import ConfigError
from mmrs_bench.paths import REPOSITORY

PRECOMPUTED, OPEN_CLIP = "precomputed:", "open_clip:"
#: Begins a path that starts at the checkout's root.
SHIPPED = "@mmrs-bench/"


def named_file(text: str, folder: Path) -> tuple[str, Path] | None:
    """What stands before the path in a setting, and the absolute path; None if the setting names no file.

    Raises:
        ConfigError: If the path starts at a home folder that is unknown.
    """
    if text.startswith(PRECOMPUTED) and len(text) > len(PRECOMPUTED):
        return PRECOMPUTED, _absolute(text.removeprefix(PRECOMPUTED), folder)
    if text.startswith(OPEN_CLIP):
        model, _, weights = text.partition("/")
        path = _absolute(weights, folder)
        # The tags of open_clip have neither slashes nor endings.
        is_path = bool(weights) and ("/" in weights or "." in weights or is_file(path))
        return (f"{model}/", path) if is_path else None
    path = _absolute(text, folder)
    return ("", path) if ("/" in text or path.suffix) and is_file(path) else None


def absolute_paths(value: Any, folder: Path) -> Any:
    """A value of a setting with absolute paths in place of paths that are relative to a folder."""
    return _changed(value, folder, lambda _text, path: str(path))


def moved_paths(value: Any, folder: Path, new: Path) -> Any:
    """A value of a setting whose relative paths start at another folder, and name the same files."""

    def moved(text: str, path: Path) -> str:
        if text.startswith((SHIPPED, "~")) or Path(text).is_absolute():
            return text
        return f"{SHIPPED}{text}" if folder == REPOSITORY else Path(os.path.relpath(path, new)).as_posix()

    return value if folder == new else _changed(value, folder, moved)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a text that is no path (too long, or with a NUL character) names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _changed(value: Any, folder: Path, change: Callable[[str, Path], str]) -> Any:
    """A value with changed paths; ``change`` receives a path as written, and the absolute path."""
    if isinstance(value, list | tuple):
        return [_changed(item, folder, change) for item in value]
    if isinstance(value, dict):
        return {name: _changed(item, folder, change) for name, item in value.items()}
    named = named_file(value, folder) if isinstance(value, str) else None
    if named is None:
        return value
    kind, path = named
    return kind + change(value.removeprefix(kind), path)


def _absolute(text: str, folder: Path) -> Path:
    if text.startswith(SHIPPED):
        return (REPOSITORY / text.removeprefix(SHIPPED)).absolute()
    try:
        return (folder / Path(text).expanduser()).absolute()
    except RuntimeError as error:
        raise ConfigError(f"{text}: the home folder of this user is unknown; give an absolute path") from error
