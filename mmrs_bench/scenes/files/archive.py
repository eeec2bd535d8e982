"""Extracts named members from a .zip archive that is not trusted."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.transfer import feed_file, receive
from mmrs_bench.scenes.manifest import SourceMember

#: Largest member that is extracted; the largest real one (Berlin's HSI as double) has 1.6 GB.
MAX_MEMBER_BYTES = 16 << 30
#: A member above `BOMB_FLOOR_BYTES` with a larger compression ratio is refused; label rasters reach about 100.
MAX_RATIO = 200
BOMB_FLOOR_BYTES = 64 << 20


def extract_members(archive: Path, members: Sequence[SourceMember], folder: Path) -> None:
    """Extract named members of a .zip archive, and no others, into a folder and verify them.

    An archive with an absolute path or ``..`` in any entry is refused as a whole. No partial file is left behind.

    Raises:
        DataError: If the archive is corrupt or unsafe, or a member is absent, encrypted, a link, too large or has an
            implausible compression ratio.
        FetchError: If a member has the wrong hash or cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = _safe_entries(archive, file)
            chosen = [(member, _choose(archive, entries, member)) for member in members]
            for member, entry in chosen:
                with file.open(entry) as stream:
                    # receive() enforces the declared size, which has been checked.
                    receive(folder / member.path, feed_file(stream, archive), member.sha256, entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{archive}: is not a complete .zip archive ({error}); delete it and fetch it again") from error


def _safe_entries(archive: Path, file: zipfile.ZipFile) -> dict[str, list[zipfile.ZipInfo]]:
    entries: dict[str, list[zipfile.ZipInfo]] = {}
    for entry in file.infolist():
        # orig_filename is the stored name; zipfile has already sanitised filename.
        path = PurePosixPath(entry.orig_filename.replace("\\", "/"))
        drive = len(path.parts) > 0 and path.parts[0].endswith(":")
        if path.is_absolute() or ".." in path.parts or drive:
            raise DataError(
                f"{archive}: entry {entry.orig_filename!r} points outside the destination; expected relative paths "
                "without '..'. Do not use this archive"
            )
        entries.setdefault(entry.filename, []).append(entry)
    return entries


def _choose(archive: Path, entries: dict[str, list[zipfile.ZipInfo]], member: SourceMember) -> zipfile.ZipInfo:
    found = entries.get(member.path, [])
    if len(found) != 1:
        near = [name for name in entries if PurePosixPath(name).name == PurePosixPath(member.path).name]
        raise DataError(
            f"{archive}: expected one member {member.path!r}, found {len(found)} (the archive contains "
            f"{', '.join(near or list(entries)[:10]) or 'nothing'}); it is another release, or the manifest has the "
            "wrong path"
        )
    (entry,) = found
    name = f"{archive}: member {member.path!r}"
    if entry.is_dir() or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise DataError(f"{name} is not a regular file; do not use this archive")
    if entry.flag_bits & 1:
        raise DataError(f"{name} is encrypted; extract it manually and use --from")
    ratio = entry.file_size / max(entry.compress_size, 1)
    if entry.file_size > MAX_MEMBER_BYTES or (entry.file_size > BOMB_FLOOR_BYTES and ratio > MAX_RATIO):
        raise DataError(
            f"{name} would extract to {entry.file_size:,} bytes, {ratio:,.0f} times its compressed size; expected at "
            f"most {MAX_MEMBER_BYTES:,} bytes and {MAX_RATIO} times. Do not use this archive"
        )
    return entry
