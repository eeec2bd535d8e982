"""Extraction from archives that are not trusted: paths, links, sizes, hashes and damage."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from helpers.small_release import extract, files_below, sha256

from mmrs_bench.errors import DataError, FetchError
from mmrs_bench.scenes.files import archive as module
from mmrs_bench.scenes.manifest import SourceMember

CONTENT = b"the wanted bytes " * 100
WANTED = SourceMember(path="data/wanted.bin", sha256=sha256(CONTENT))
ENTRY = (WANTED.path, CONTENT)

Entry = tuple[str | zipfile.ZipInfo, bytes]


def zip_of(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def special(kind: int, name: str = WANTED.path) -> Entry:
    """An entry that is a link, a pipe or a device."""
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    return entry, b"/etc/passwd"


def changed(content: bytes, *places: int) -> bytes:
    """The archive with one bit of these bytes inverted."""
    damaged = bytearray(content)
    for place in places:
        damaged[place] ^= 1
    return bytes(damaged)


def test_only_named_members_are_written(tmp_path: Path) -> None:
    content = zip_of(ENTRY, ("data/unnamed.bin", b"x"), special(stat.S_IFLNK, "docs/link"))
    out = extract(tmp_path, content, WANTED)
    assert files_below(out) == {"data/wanted.bin"}
    assert (out / "data/wanted.bin").read_bytes() == CONTENT


WHOLE = zip_of(ENTRY)
OUTSIDE = ("../evil.bin", "data/../../evil.bin", "/evil.bin", "..\\evil.bin", "C:/evil.bin")
FAULTS: dict[str, tuple[bytes, str]] = {
    **{name: (zip_of(ENTRY, (name, b"evil")), "points outside") for name in OUTSIDE},
    "link": (zip_of(special(stat.S_IFLNK)), "is not a regular file"),
    "pipe": (zip_of(special(stat.S_IFIFO)), "is not a regular file"),
    "device": (zip_of(special(stat.S_IFCHR)), "is not a regular file"),
    "folder": (zip_of(("data/wanted.bin/", b"")), "expected one member"),
    "another path": (zip_of(("b/wanted.bin", CONTENT)), r"found 0 \(the archive contains b/wanted\.bin\)"),
    "twice": (zip_of(ENTRY, ENTRY), "found 2"),
    "encrypted": (changed(WHOLE, 6, WHOLE.index(b"PK\x01\x02") + 8), "is encrypted"),
    "cut off": (WHOLE[: len(WHOLE) // 2], "is not a complete"),
    "tar": (tarfile.TarInfo(WANTED.path).tobuf() + bytes(1024), "is not a complete"),
    "no archive": (b"<html>sign in</html>", "is not a complete"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faulty_and_unsafe_archives_are_refused_as_a_whole(tmp_path: Path, case: str) -> None:
    content, message = FAULTS[case]
    with pytest.raises(DataError, match=message):
        extract(tmp_path, content, WANTED)
    assert files_below(tmp_path) == {"a.zip"}
    assert not Path("/evil.bin").exists()


def test_an_implausible_compression_ratio_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOMB_FLOOR_BYTES", 1 << 20)
    zeros = bytes(2 << 20)
    member, content = SourceMember(path=WANTED.path, sha256=sha256(zeros)), zip_of((WANTED.path, zeros))
    with pytest.raises(DataError, match=r"would extract to 2,097,152 bytes, [\d,]+ times"):
        extract(tmp_path, content, member)
    assert files_below(tmp_path) == {"a.zip"}
    # Below the floor, the same bytes are accepted: label rasters are mostly zeros.
    monkeypatch.setattr(module, "BOMB_FLOOR_BYTES", 4 << 20)
    extract(tmp_path, content, member)


def test_a_member_above_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(DataError, match="expected at most 1,000 bytes"):
        extract(tmp_path, WHOLE, WANTED)


def test_no_more_than_the_declared_size_is_written(tmp_path: Path) -> None:
    zeros, declared = bytes(1 << 20), struct.pack("<I", 1 << 20)
    member, content = SourceMember(path=WANTED.path, sha256=sha256(zeros)), zip_of((WANTED.path, zeros))
    assert content.count(declared) == 2
    with pytest.raises((DataError, FetchError)):
        extract(tmp_path, content.replace(declared, struct.pack("<I", 100)), member)
    left = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "a.zip"]
    assert sum(file.stat().st_size for file in left) <= 100
    assert WANTED.path not in files_below(tmp_path / "out")


def test_a_member_with_a_wrong_hash_is_quarantined(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=sha256(b"other")):
        extract(tmp_path, zip_of((WANTED.path, b"other")), WANTED)
    assert files_below(tmp_path / "out") == {f"data/wanted.bin.bad-{sha256(b'other')[:8]}"}


def test_a_changed_bit_is_detected_without_a_hash(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a complete"):
        extract(tmp_path, changed(WHOLE, 30 + len(WANTED.path) + 10), SourceMember(path=WANTED.path))
    assert files_below(tmp_path) == {"a.zip"}
