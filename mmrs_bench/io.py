"""Files that are either whole or absent, and hashes that mean the same everywhere."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmrs_bench.errors import BenchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK_BYTES = 1 << 20


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    The content goes to a temporary file in the same folder, is flushed to the disk and then renamed.

    Args:
        path: Destination; its folder is made if absent.
        write: Called with the open binary file.

    Raises:
        BenchError: If the folder cannot be written or the disk is full; the temporary file is removed.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BenchError(
            f"cannot write {path}: {error.strerror}. The old content, if any, is untouched; free some space or choose "
            "a folder you may write to, and run the command again."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically (see `atomic_write`)."""
    atomic_write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically with sorted keys; NaN and infinity are refused (``ValueError``)."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a line of column names atomically (see `atomic_write`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_png(path: Path, figure: Figure, *, dpi: int = 150) -> None:
    """Draw a figure into a file atomically (see `atomic_write`)."""
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Equal values give equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def content_hash(value: Any) -> str:
    """SHA-256 (64 hex digits) of a value's `canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()
