"""Writes files as ``.part``, verifies them, and only then renames them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mmrs_bench.errors import FetchError
from mmrs_bench.io import CHUNK_BYTES

#: Seconds without a byte after which a server counts as unreachable.
TIMEOUT_S = 30.0


class Sink:
    """Counts and hashes the bytes that are written to a file; ``limit`` is their largest number.

    Disk errors become `FetchError`, so that a feed can distinguish them from network errors, which are ``OSError``.
    """

    def __init__(self, file: IO[bytes], limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> int:
        """Append a block and return its length; raises `FetchError` beyond the limit."""
        self.size += len(block)
        if self._limit is not None and self.size > self._limit:
            raise FetchError(f"more than the expected {self._limit:,} bytes arrived")
        self._digest.update(block)
        try:
            return self._file.write(block)
        except OSError as error:
            raise disk_error(Path(self._file.name), error) from error

    def flush(self) -> None:
        """Do nothing; pooch calls it after each block."""

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of the bytes so far."""
        return self._digest.hexdigest()


#: Writes all bytes of a source to a sink. It converts an ``OSError`` of its source to `FetchError`.
Feed = Callable[[Sink], None]


def disk_error(path: Path, error: OSError) -> FetchError:
    """The error for a file or folder that cannot be written."""
    return FetchError(
        f"cannot write {path}: {error.strerror or error}. Free some space or set MMRS_BENCH_DATA (for "
        "weights: MMRS_BENCH_CACHE) to a writable folder, and run the command again; no partial file was left behind."
    )


def quarantine(path: Path, sha256: str) -> Path:
    """Rename a file with a wrong hash to ``<name>.bad-<first 8 hex digits>`` and return the new path."""
    bad = path.with_name(f"{path.name.removesuffix('.part')}.bad-{sha256[:8]}")
    os.replace(path, bad)
    return bad


def receive(target: Path, feed: Feed, sha256: str | None, size: int | None) -> None:
    """Write a file, verify it and move it to its place; other processes never see a partial file.

    Args:
        target: Destination; its folder is created if absent.
        feed: Called once with the sink.
        sha256: Expected hash; None accepts any.
        size: Expected number of bytes; None accepts any.

    Raises:
        FetchError: If the file cannot be written or its bytes are wrong; wrong bytes are kept (see `quarantine`).
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            sink = Sink(file, size)
            feed(sink)
            file.flush()
            os.fsync(file.fileno())
        if sha256 not in (None, sink.sha256) or size not in (None, sink.size):
            bad = quarantine(part, sink.sha256)
            raise FetchError(
                f"{target.name} has SHA-256 {sink.sha256} and {sink.size:,} bytes, expected {sha256 or 'any'}"
                f"{f' and {size:,} bytes' if size is not None else ''}; kept as {bad}"
            )
        os.replace(part, target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        if os.path.lexists(part):
            part.unlink()


def feed_file(stream: IO[bytes], path: Path) -> Feed:
    """A feed that copies an open file in blocks of 1 MiB; ``path`` is for its error message."""

    def feed(sink: Sink) -> None:
        try:
            while block := stream.read(CHUNK_BYTES):
                sink.write(block)
        except OSError as error:
            raise FetchError(f"cannot read {path}: {error.strerror or error}; fetch it again") from error

    return feed


def download(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Download one address with `receive`, with a progress bar if standard error is a terminal.

    Raises:
        FetchError: If the server fails or sends other bytes, or the file cannot be written; without the address.
    """
    from pooch import HTTPDownloader

    get = HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK_BYTES, timeout=TIMEOUT_S)

    def feed(sink: Sink) -> None:
        try:
            get(url, sink, None)
        except OSError as error:  # the errors of requests are OSErrors
            raise FetchError(_network_reason(error)) from error

    receive(target, feed, sha256, size)


def _network_reason(error: OSError) -> str:
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        return f"no answer within {TIMEOUT_S:g} s"
    # requests wraps the system's message (connection refused, unknown host) in several exceptions.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return text.split(" for url: ")[0] or type(error).__name__
