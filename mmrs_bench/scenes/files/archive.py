"""Members out of a .zip archive, trusting nothing in it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.transfer import feed_file, receive
from mmrs_bench.scenes.manifest import SourceMember

#: The largest member that is unpacked; the largest real one (Berlin's HSI as double) takes 1.6 GB.
MAX_MEMBER_BYTES = 16 << 30
#: A member above `BOMB_FLOOR_BYTES` that grows by more than this is a bomb; label rasters shrink by about 100.
MAX_RATIO = 200
BOMB_FLOOR_BYTES = 64 << 20


def extract_members(archive: Path, members: Sequence[SourceMember], folder: Path) -> None:
    """Unpack the named members of a .zip archive into a folder, each verified before it gets its name.

    Nothing but the named members is ever written. An archive with an absolute path or ``..`` anywhere in it is
    refused as a whole.

    Args:
        archive: The .zip file.
        members: Members to unpack, with their hashes where known.
        folder: Where they go, under their own paths.

    Raises:
        DataError: If the archive is corrupt, unsafe, encrypted, lacks a member, or a member is a link, too large or
            compressed beyond belief. Nothing broken is left behind.
        FetchError: If a member has the wrong hash (it is kept as ``.bad-<8 hex>``) or cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            entries = _checked_entries(archive, file)
            chosen = [(member, _choose(archive, entries, member)) for member in members]
            for member, entry in chosen:
                with file.open(entry) as stream:
                    # The declared size was checked; the file is held to it while it is written.
                    receive(folder / member.path, feed_file(stream, archive), member.sha256, entry.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise DataError(f"{archive}: is not a complete .zip archive ({error}); delete it and fetch it again") from error


def _checked_entries(archive: Path, file: zipfile.ZipFile) -> dict[str, list[zipfile.ZipInfo]]:
    entries: dict[str, list[zipfile.ZipInfo]] = {}
    for entry in file.infolist():
        # orig_filename is the name as stored; zipfile has already softened filename.
        path = PurePosixPath(entry.orig_filename.replace("\\", "/"))
        drive = len(path.parts) > 0 and path.parts[0].endswith(":")
        if path.is_absolute() or ".." in path.parts or drive:
            raise DataError(
                f"{archive}: refused, its entry {entry.orig_filename!r} points outside the folder it is unpacked to; "
                "expected relative paths without '..'. Do not use this archive"
            )
        entries.setdefault(entry.filename, []).append(entry)
    return entries


def _choose(archive: Path, entries: dict[str, list[zipfile.ZipInfo]], member: SourceMember) -> zipfile.ZipInfo:
    found = entries.get(member.path, [])
    if len(found) != 1:
        near = [name for name in entries if PurePosixPath(name).name == PurePosixPath(member.path).name]
        hint = f"it has {', '.join(near)}" if near else f"it has {', '.join(list(entries)[:10]) or 'nothing'}"
        raise DataError(
            f"{archive}: expected one member {member.path!r}, found {len(found)} ({hint}); it is another release, "
            "or the member's path in the manifest is wrong"
        )
    entry = found[0]
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        raise DataError(f"{archive}: member {member.path!r} is a link or no plain file; do not use this archive")
    if entry.flag_bits & 1:
        raise DataError(f"{archive}: member {member.path!r} is encrypted; unpack it by hand and use --from")
    grown = entry.file_size / max(entry.compress_size, 1)
    if entry.file_size > MAX_MEMBER_BYTES or (entry.file_size > BOMB_FLOOR_BYTES and grown > MAX_RATIO):
        raise DataError(
            f"{archive}: member {member.path!r} would unpack to {entry.file_size:,} bytes, {grown:,.0f} times its "
            f"packed size; expected at most {MAX_MEMBER_BYTES:,} bytes and {MAX_RATIO} times. Do not use this archive"
        )
    return entry
