"""Extracts named members from archives that are not trusted: .zip, .tar, .tar.gz."""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, TypeVar, cast

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.transfer import feed_file, receive
from mmrs_bench.scenes.manifest_files import ARCHIVES, SourceMember

#: Largest member that is extracted; the largest real one (Berlin's HSI as double) has 1.6 GB.
MAX_MEMBER_BYTES = 16 << 30
#: A member above `BOMB_FLOOR_BYTES` with a larger compression ratio is refused; label rasters reach about 100.
MAX_RATIO = 200
BOMB_FLOOR_BYTES = 64 << 20
#: Encodings of names in .zip archives that do not declare UTF-8: of DOS, of Western and of Chinese Windows, and UTF-8.
ZIP_ENCODINGS = ("utf-8", "cp437", "latin-1", "cp1252", "gbk", "big5", "shift_jis")
#: Names that a message lists.
LISTED = 10

#: Largest header of a .tar archive, long names and extended headers included.
MAX_HEADER_BYTES = 4 << 20

Entry = TypeVar("Entry", zipfile.ZipInfo, tarfile.TarInfo)
#: Entries of an archive with the paths that their names may mean.
_Named = list[tuple[Entry, tuple[str, ...]]]


class _Found(NamedTuple):
    """A member of an archive: its size, compressed size (0 if unknown), fault, and how to open it."""

    size: int
    compressed: int
    fault: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def extract_members(archive: Path, members: Sequence[SourceMember], folder: Path) -> None:
    """Extract named members of an archive, and no others, into a folder and verify them.

    A name with backslashes or in a legacy encoding is found by the path that it means. An archive with an absolute path
    or ``..`` in any name is refused as a whole. No partial file is left behind.

    Raises:
        DataError: If the archive is corrupt or unsafe, or a member is absent, encrypted, a link, too large or has an
            implausible compression ratio.
        FetchError: If a member has the wrong hash or cannot be written.
    """
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                named = _zip_entries(archive, zipped)
                _extract(archive, {m.path: _in_zip(archive, zipped, named, m) for m in members}, members, folder)
        else:
            with (
                archive.open("rb") if archive.suffix.lower() == ".tar" else gzip.open(archive) as opened,
                tarfile.open(fileobj=cast(IO[bytes], _Bounded(cast(IO[bytes], opened))), mode="r:") as tar,
            ):
                entries = _tar_entries(archive, tar)
                _extract(archive, {m.path: _in_tar(archive, tar, entries, m) for m in members}, members, folder)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        RuntimeError,  # NotImplementedError for a compression, RecursionError for nested headers
        ValueError,
        LookupError,
        ArithmeticError,
        OSError,  # of the archive: writing the members raises FetchError
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        ending = next((e for e in ARCHIVES if archive.name.lower().endswith(e)), archive.suffix)
        raise DataError(
            f"{archive}: is not a complete {ending} archive ({reason}); delete it and fetch it again"
        ) from error


def _extract(archive: Path, found: dict[str, _Found], members: Sequence[SourceMember], folder: Path) -> None:
    for member in members:
        entry, name = found[member.path], f"{archive}: member {member.path!r}"
        if entry.fault:
            raise DataError(f"{name} {entry.fault}")
        ratio = entry.size / max(entry.compressed, 1) if entry.compressed else 0.0
        if entry.size > MAX_MEMBER_BYTES or (entry.size > BOMB_FLOOR_BYTES and ratio > MAX_RATIO):
            raise DataError(
                f"{name} would extract to {entry.size:,} bytes, {ratio:,.0f} times its compressed size; expected at "
                f"most {MAX_MEMBER_BYTES:,} bytes and {MAX_RATIO} times. Do not use this archive"
            )
    for member in members:
        with found[member.path].open() as stream:
            # receive() enforces the declared size, which has been checked.
            receive(folder / member.path, feed_file(stream, archive), member.sha256, found[member.path].size)


def _zip_entries(archive: Path, file: zipfile.ZipFile) -> _Named[zipfile.ZipInfo]:
    named = [(entry, _zip_names(entry)) for entry in file.infolist()]
    for _, names in named:
        for name in names:
            _check_inside(archive, name)
    return [(entry, names) for entry, names in named if not entry.is_dir()]


def _in_zip(archive: Path, file: zipfile.ZipFile, named: _Named[zipfile.ZipInfo], member: SourceMember) -> _Found:
    entry = _choose(archive, named, member)
    fault = ""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        fault = "is not a regular file; do not use this archive"
    elif entry.flag_bits & 1:
        fault = "is encrypted; extract it manually and use --from"
    return _Found(entry.file_size, entry.compress_size, fault, partial(file.open, entry))


def _zip_names(entry: zipfile.ZipInfo) -> tuple[str, ...]:
    """The paths that a stored name may mean, the most likely first."""
    stored = entry.orig_filename  # zipfile has sanitised filename, or replaced it by a declared Unicode name
    names = [stored, entry.filename]
    if not entry.flag_bits & 0x800:  # not declared as UTF-8: zipfile decodes the bytes as cp437
        raw = stored.encode("cp437")
        for encoding in ZIP_ENCODINGS:
            try:
                names.append(raw.decode(encoding))
            except UnicodeDecodeError:
                continue
    return tuple(dict.fromkeys(_posix(name) for name in names))


def _posix(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _check_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    drive = len(path.parts) > 0 and path.parts[0].endswith(":")
    if path.is_absolute() or ".." in path.parts or drive:
        raise DataError(
            f"{archive}: entry {name!r} points outside the destination; expected relative paths without '..'. Do not "
            "use this archive"
        )


def _choose(archive: Path, named: _Named[Entry], member: SourceMember) -> Entry:
    """The entry with a member's path."""
    found = [entry for entry, names in named if _posix(member.path) in names]
    if len(found) != 1:
        firsts = list(dict.fromkeys(names[0] for _, names in named))
        near = [name for name in firsts if PurePosixPath(name).name == PurePosixPath(member.path).name]
        raise DataError(
            f"{archive}: expected one member {member.path!r}, found {len(found)} (the archive contains "
            f"{', '.join(near or firsts[:LISTED]) or 'nothing'}); it is another release, or the manifest has the wrong "
            "path"
        )
    return found[0]


class _Bounded:
    """A file of which `tarfile` reads no more than a block at once, whatever size a header declares."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read a block; raises ``tarfile.ReadError`` if it is too large for a header."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header declares {size:,} bytes")
        return self._file.read(size)


def _tar_entries(archive: Path, tar: tarfile.TarFile) -> _Named[tarfile.TarInfo]:
    """All entries, after a check of their names and of the size of the archive once decompressed."""
    limit = max(BOMB_FLOOR_BYTES, MAX_RATIO * archive.stat().st_size)
    entries = []
    for entry in tar:
        _check_inside(archive, _posix(entry.name))
        if not entry.isdir():
            entries.append((entry, (_posix(entry.name), *_tar_names(entry.name))))
        if entry.offset_data + entry.size > limit and archive.suffix != ".tar":
            raise DataError(
                f"{archive}: would extract to more than {limit:,} bytes, {MAX_RATIO} times its size. Do not use this "
                "archive"
            )
    return entries


def _in_tar(archive: Path, tar: tarfile.TarFile, named: _Named[tarfile.TarInfo], member: SourceMember) -> _Found:
    entry = _choose(archive, named, member)
    fault = "" if entry.isreg() and not entry.issparse() else "is not a regular file; do not use this archive"
    return _Found(entry.size, 0, fault, partial(_open_tar, tar, entry))


def _tar_names(name: str) -> tuple[str, ...]:
    """The paths that a name which is no UTF-8 may mean."""
    raw, names = name.encode("utf-8", "surrogateescape"), []
    for encoding in ZIP_ENCODINGS:
        try:
            names.append(_posix(raw.decode(encoding)))
        except UnicodeDecodeError:
            continue
    return tuple(names)


def _open_tar(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(entry)
    if stream is None:
        raise tarfile.ReadError(f"member {entry.name!r} has no content")
    return stream
