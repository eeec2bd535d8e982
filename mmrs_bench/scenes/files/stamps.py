"""Remembers hashes of files, so that a scene is not hashed at every load."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.io import file_sha256, write_json
from mmrs_bench.paths import cache_root
from mmrs_bench.reading import read_json
from mmrs_bench.scenes.manifest import SourceMember


class Stamps:
    """Size, times and hash of the files of one folder.

    They are stored in the cache and not beside the files, so that a shared data folder may be read-only.

    Args:
        folder: The scene's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = cache_file(folder, ".json")
        self._changed = False
        try:
            stamps = read_json(self._path, error=DataError, advice="the files are hashed again")
        except DataError:
            stamps = None  # without stamps, files are hashed again
        self._stamps: dict[str, list[Any]] = stamps if isinstance(stamps, dict) else {}

    def verified(self, member: SourceMember) -> bool:
        """Whether a file is present with its expected hash, or with any content if it has none."""
        if member.sha256 is None:
            return (self._folder / member.path).is_file()
        return self.sha256(member.path) == member.sha256

    def sha256(self, file: str) -> str | None:
        """SHA-256 of a file of the folder; None if it is absent. A file is hashed only if it has changed.

        Raises:
            DataError: If the file cannot be read.
        """
        path = self._folder / file
        if not path.is_file():
            return None
        try:
            state = _state(path)
            known = self._stamps.get(file)
            if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
                return known[-1]
            found = file_sha256(path)
            if _state(path) == state:  # else it changed meanwhile
                self._stamps[file] = [*state, found]
                self._changed = True
            return found
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}); check the file and its rights"
            ) from error

    def add(self, member: SourceMember) -> None:
        """Remember the expected hash of a file that has just been verified."""
        if member.sha256 is not None:
            self._stamps[member.path] = [*_state(self._folder / member.path), member.sha256]
            self._changed = True

    def save(self, progress: Callable[[str], Any]) -> None:
        """Write the stamps to the cache; if that fails, only report it."""
        if not self._changed:
            return
        try:
            write_json(self._path, self._stamps)
        except BenchError as error:
            progress(f"hashes are not remembered: {error}")


def cache_file(folder: Path, ending: str) -> Path:
    """A file of the cache that belongs to a scene's folder, by whatever path the folder is named."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache_root() / "verified" / f"{name}{ending}"


def _state(path: Path) -> list[int]:
    """What changes when a file is written or replaced: size, inode, times of modification and of change in ns."""
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
