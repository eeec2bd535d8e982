"""Remembers which record files were checked, by a hash of place, content and checking code.

Reading 10,000 records takes twelve times as long with all checks as without. A file is checked again if any byte of it
changed, whatever its size and time, if it lies at another place, or if the code of the checks changed. The hashes are
in the user's cache and not in the results folder, so that every machine checks the files of others itself.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from mmrs_bench.errors import BenchError
from mmrs_bench.io import file_sha256, text_hash, write_text
from mmrs_bench.paths import cache_root

#: What decides whether a record is valid, below the package's folder.
_CHECKS = (
    "accuracy.py",
    "config.py",
    "evaluation/results/metrics.py",
    "evaluation/results/records.py",
    "evaluation/results/schema.py",
    "evaluation/results/verified.py",
    "io.py",
    "reading.py",
)
#: Fewer new files are not worth writing the hashes.
_WORTHWHILE = 100

_log = logging.getLogger(__name__)


class VerifiedFiles:
    """The record files of one folder that were checked before.

    Args:
        folder: Folder of the records.
    """

    def __init__(self, folder: Path) -> None:
        self._file = cache_root() / "verified" / f"{text_hash(ascii(str(folder.absolute())))[:16]}.txt"
        self._known = _hashes_in(self._file)
        self._seen: set[str] = set()

    def __contains__(self, file_hash: str) -> bool:
        return file_hash in self._known

    def add(self, file_hash: str) -> None:
        """Note a file that is valid."""
        self._seen.add(file_hash)

    def save(self) -> None:
        """Write the hashes of the files that were noted, if many of them are new."""
        if len(self._seen - self._known) < _WORTHWHILE:
            return
        try:
            write_text(self._file, "\n".join(sorted(self._seen)) + "\n")
        except BenchError as error:
            _log.info("records are checked again next time: %s", error)


def record_hash(path: Path, content: str) -> str:
    """The hash of a record file: of the checking code, of folder and name, and of its text."""
    return text_hash("\0".join((_code_hash(), ascii(path.parts[-3:]), content)))


def _hashes_in(file: Path) -> frozenset[str]:
    """The hashes in a file; none if it cannot be read. A damaged one equals no hash of a record."""
    try:
        return frozenset(file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return frozenset()


@cache
def _code_hash() -> str:
    package = Path(__file__).resolve().parents[2]
    return text_hash("".join(file_sha256(package / name) for name in _CHECKS))
