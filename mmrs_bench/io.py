"""Atomic writes of files, hashes of values and files, and processes that end with their parent."""

from __future__ import annotations

import csv
import errno
import gc
import hashlib
import io
import json
import multiprocessing
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmrs_bench.errors import BenchError
from mmrs_bench.texts import inert

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK_BYTES = 1 << 20

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that readers see either the old or the new content.

    Args:
        path: Destination; missing folders are created.
        write: Called with an open binary file in the same folder, which is then renamed.

    Raises:
        BenchError: If the folder is not writable or the disk is full; the temporary file is removed.
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
        if fault := in_the_way(path):
            raise BenchError(f"cannot write {path}: {fault}") from error
        raise BenchError(
            f"cannot write {path}: {error.strerror}. An old file is unchanged; free some space or choose a writable "
            "folder, and run the command again."
        ) from error


def in_the_way(path: Path) -> str:
    """What has the place of a file, or of a folder above it, and what to do; empty if nothing has."""
    if path.is_dir():
        return f"{path} is a folder, expected a file; move it away or choose another place, and run the command again"
    for parent in path.parents:
        if os.path.lexists(parent) and not parent.is_dir():
            return f"{parent} is not a folder; move it away or choose another place, and run the command again"
    return ""


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of a full, read-only or vanished disk into a `BenchError` that names the folder."""
    try:
        yield
    except OSError as error:
        below = isinstance(error.filename, str | os.PathLike) and Path(error.filename).is_relative_to(folder)
        if error.errno not in _DISK_ERRORS and not below:
            raise
        if below and (fault := in_the_way(Path(error.filename) / "file")):
            raise BenchError(f"cannot write to {folder}: {fault}") from error
        raise BenchError(
            f"cannot write to {folder}: {error.strerror}. What was finished is kept; free some space or choose a "
            "writable folder, and run the command again."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    atomic_write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write JSON atomically with sorted keys; NaN and infinity raise ``ValueError``."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=True, allow_nan=False) + "\n")


def csv_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, with the column names in the first line; texts are `mmrs_bench.texts.inert`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (names, *rows):
        writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write `csv_text` atomically."""
    write_text(path, csv_text(names, rows))


def write_png(path: Path, figure: Figure, *, dpi: int = 150) -> None:
    """Write a figure atomically, as PNG."""
    atomic_write(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def canonical_json(value: Any) -> str:
    """JSON text with sorted keys and without spaces: equal values give equal texts. NaN raises ``ValueError``."""
    return _CANONICAL.encode(value)


def content_hash(value: Any) -> str:
    """SHA-256 (64 hex digits) of a value's `canonical_json`."""
    return text_hash(canonical_json(value))


def text_hash(text: str) -> str:
    """SHA-256 (64 hex digits) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Do not look for unreachable objects within a block that creates many small ones that stay.

    Python looks for them whenever the number of objects has grown by a quarter, which takes half of the time of reading
    10,000 records, and a seventh of that of importing torch. Objects without cycles are freed as before.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def end_with_parent() -> None:
    """End this process, which multiprocessing spawned, when its parent ends, even if that is killed.

    So the process need not be daemonic, and may start processes of its own.
    """
    multiprocessing.current_process().daemon = False
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
