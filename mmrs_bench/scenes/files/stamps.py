"""Remembers verified files, so that a scene is not hashed at every load."""

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
    """Size, modification time and hash of the verified files of one folder.

    They are stored in the cache and not beside the files, so that a shared data folder may be read-only.

    Args:
        folder: The scene's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._path = cache_root() / "verified" / f"{name}.json"
        self._changed = False
        try:
            stamps = read_json(self._path, error=DataError, advice="the files are hashed again")
        except DataError:
            stamps = None  # without stamps, files are hashed again
        self._stamps: dict[str, list[Any]] = stamps if isinstance(stamps, dict) else {}

    def verified(self, member: SourceMember) -> bool:
        """Whether a file is present with its expected hash. A file is hashed only if it has changed."""
        path = self._folder / member.path
        if not path.is_file():
            return False
        if member.sha256 is None or self._stamps.get(member.path) == self._stamp(member):
            return True
        if file_sha256(path) != member.sha256:
            return False
        self.add(member)
        return True

    def add(self, member: SourceMember) -> None:
        """Remember a file that has just been verified."""
        if member.sha256 is not None:
            self._stamps[member.path] = self._stamp(member)
            self._changed = True

    def save(self, progress: Callable[[str], Any]) -> None:
        """Write the stamps to the cache; if that fails, only report it."""
        if not self._changed:
            return
        try:
            write_json(self._path, self._stamps)
        except BenchError as error:
            progress(f"hashes are not remembered: {error}")

    def _stamp(self, member: SourceMember) -> list[Any]:
        found = (self._folder / member.path).stat()
        return [found.st_size, found.st_mtime_ns, member.sha256]
