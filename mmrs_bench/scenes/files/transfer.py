"""Bytes into files: written beside their place as ``.part``, verified, and only then renamed."""

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
    """A file being written that counts and hashes what it gets.

    Errors of the disk leave it as FetchError, so that a feed can tell them from its own (a network's are OSErrors).

    Args:
        file: The open binary file.
        limit: Bytes after which it refuses more; None for no limit.
    """

    def __init__(self, file: IO[bytes], limit: int | None) -> None:
        self._file, self._limit = file, limit
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> int:
        """Append a block and return its length.

        Raises:
            FetchError: If more bytes come than the limit allows, or they cannot be written.
        """
        self.size += len(block)
        if self._limit is not None and self.size > self._limit:
            raise FetchError(f"more than the expected {self._limit:,} bytes came")
        self._digest.update(block)
        try:
            return self._file.write(block)
        except OSError as error:
            raise disk_error(Path(self._file.name), error) from error

    def flush(self) -> None:
        """Do nothing (the file is flushed once, at its end); pooch calls it after each block."""

    @property
    def sha256(self) -> str:
        """SHA-256 (64 hex digits) of what came so far."""
        return self._digest.hexdigest()


def disk_error(path: Path, error: OSError) -> FetchError:
    """The error for a file or folder that cannot be written (read-only, no space, no folder)."""
    return FetchError(
        f"cannot write {path}: {error.strerror or error}. Free some space or set MMRS_BENCH_DATA to a folder you may "
        "write to, and run the command again; nothing half-written was left behind."
    )


def quarantine(path: Path, sha256: str) -> Path:
    """Move a file whose hash is wrong out of the way as ``<name>.bad-<first 8 hex digits>``; returns the new path."""
    bad = path.with_name(f"{path.name.removesuffix('.part')}.bad-{sha256[:8]}")
    os.replace(path, bad)
    return bad


def receive(target: Path, feed: Callable[[Sink], None], sha256: str | None, size: int | None) -> None:
    """Write a file through ``feed``, verify it and move it to its place; a reader never sees a part of it.

    Args:
        target: Where the file belongs; its folder is made if absent.
        feed: Called once with the sink that takes the bytes; it turns OSErrors of its source into its own.
        sha256: Expected hash; None accepts any.
        size: Expected number of bytes; None accepts any.

    Raises:
        FetchError: If it cannot be written here, or the bytes are wrong; wrong bytes are kept as
            ``<name>.bad-<8 hex>`` beside the target and named in the message.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            sink = Sink(file, size)
            feed(sink)
            file.flush()
            os.fsync(file.fileno())
        if (sha256 is not None and sink.sha256 != sha256) or (size is not None and sink.size != size):
            bad = quarantine(part, sink.sha256)
            raise FetchError(
                f"{target.name} has SHA-256 {sink.sha256} and {sink.size:,} bytes, expected {sha256 or 'any'}"
                f"{f' and {size:,} bytes' if size is not None else ''}; kept as {bad} for a look"
            )
        os.replace(part, target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:
        if os.path.lexists(part):
            part.unlink()


def feed_file(stream: IO[bytes], name: Path) -> Callable[[Sink], None]:
    """A feed for `receive` that passes an open file on in pieces of 1 MiB; ``name`` is for its error message."""

    def feed(sink: Sink) -> None:
        try:
            while block := stream.read(CHUNK_BYTES):
                sink.write(block)
        except OSError as error:
            raise FetchError(f"cannot read {name}: {error.strerror or error}; fetch it again") from error

    return feed


def download(url: str, target: Path, sha256: str | None, size: int | None) -> None:
    """Download one address through `receive`, with a progress bar where standard error is a terminal.

    Raises:
        FetchError: If the server does not answer within `TIMEOUT_S`, answers with an error, stops before the end or
            sends other bytes than expected, or the file cannot be written here. The message does not repeat the
            address.
    """
    from pooch import HTTPDownloader

    get = HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=CHUNK_BYTES, timeout=TIMEOUT_S)

    def feed(sink: Sink) -> None:
        try:
            get(url, sink, None)
        except OSError as error:  # requests' own errors are OSErrors
            raise FetchError(_network_reason(error)) from error

    receive(target, feed, sha256, size)


def _network_reason(error: OSError) -> str:
    text = " ".join(str(error).split())
    if "timed out" in text.lower():
        return f"no answer within {TIMEOUT_S:g} s"
    # requests wraps the system's own words (connection refused, name not known) in several layers.
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return text.split(" for url: ")[0] or type(error).__name__
