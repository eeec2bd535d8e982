"""Remembered hashes, so that a scene is hashed once and not at every load."""

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
    """Which files of one folder have been verified, by size, modification time and hash.

    They are kept in the cache, not beside the files, so that a shared read-only data folder works and a user's own
    folder stays as it is.

    Args:
        folder: The scene's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._path = cache_root() / "verified" / f"{name}.json"
        self._stamps = self._read()
        self._changed = False

    def _read(self) -> dict[str, list[Any]]:
        try:
            stamps = read_json(self._path, error=DataError, advice="the files are hashed again")
        except DataError:
            # Absent or damaged only means that files are hashed once more.
            return {}
        return stamps if isinstance(stamps, dict) else {}

    def verified(self, member: SourceMember) -> bool:
        """Whether a file is there with its expected hash; hashed only if it changed since it was last verified."""
        path = self._folder / member.path
        if not path.is_file():
            return False
        if member.sha256 is None or self._stamps.get(member.path) == self._stamp(path, member.sha256):
            return True
        if file_sha256(path) != member.sha256:
            return False
        self.add(member)
        return True

    def add(self, member: SourceMember) -> None:
        """Remember a file that was verified a moment ago."""
        if member.sha256 is not None:
            self._stamps[member.path] = self._stamp(self._folder / member.path, member.sha256)
            self._changed = True

    def save(self, progress: Callable[[str], Any] | None) -> None:
        """Write what was learnt; where the cache cannot be written, say so and go on (files are hashed again)."""
        if not self._changed:
            return
        try:
            write_json(self._path, self._stamps)
        except BenchError as error:
            if progress is not None:
                progress(f"hashes are not remembered: {error}")

    @staticmethod
    def _stamp(path: Path, sha256: str) -> list[Any]:
        found = path.stat()
        return [found.st_size, found.st_mtime_ns, sha256]
