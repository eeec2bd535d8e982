"""Extraction from archives that are not trusted: paths, links, sizes, hashes and damage."""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_release import files_below, sha256

from mmrs_bench.errors import DataError, FetchError
from mmrs_bench.scenes.files import archive as module
from mmrs_bench.scenes.files.archive import extract_members
from mmrs_bench.scenes.manifest import SourceMember

CONTENT = b"the wanted bytes " * 100
WANTED = SourceMember(path="data/wanted.bin", sha256=sha256(CONTENT))

Fill = Callable[[zipfile.ZipFile], None]


def make_zip(path: Path, fill: Fill) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return path


def add_wanted(archive: zipfile.ZipFile) -> None:
    archive.writestr(WANTED.path, CONTENT)


def make_zip_of(path: Path, content: bytes) -> Path:
    return make_zip(path, lambda archive: archive.writestr(WANTED.path, content))


def link_to(name: str, target: str, kind: int = stat.S_IFLNK) -> Fill:
    def fill(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        entry.external_attr = (kind | 0o777) << 16
        archive.writestr(entry, target)

    return fill


def test_only_named_members_are_written(tmp_path: Path) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        add_wanted(archive)
        archive.writestr("data/unnamed.bin", b"x")
        link_to("docs/link", "/etc/passwd")(archive)

    path = make_zip(tmp_path / "a.zip", fill)
    extract_members(path, [WANTED], tmp_path / "out")
    assert files_below(tmp_path / "out") == {"data/wanted.bin"}
    assert (tmp_path / "out/data/wanted.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["../evil.bin", "data/../../evil.bin", "/evil.bin", "..\\evil.bin", "C:/evil.bin"])
def test_an_archive_with_a_path_outside_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    def fill(archive: zipfile.ZipFile) -> None:
        add_wanted(archive)
        archive.writestr(name, b"evil")

    path = make_zip(tmp_path / "a.zip", fill)
    with pytest.raises(DataError, match="points outside"):
        extract_members(path, [WANTED], tmp_path / "out")
    assert files_below(tmp_path) == {"a.zip"}
    assert not Path("/evil.bin").exists()


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        *(
            (link_to(WANTED.path, "/etc/passwd", kind), "is not a regular file")
            for kind in (0o120000, 0o010000, 0o020000)
        ),
        (lambda archive: archive.writestr("data/wanted.bin/", b""), "expected one member"),
        (
            lambda archive: archive.writestr("elsewhere/wanted.bin", CONTENT),
            r"found 0 \(the archive contains elsewhere/wanted\.bin\)",
        ),
    ],
    ids=["link", "pipe", "device", "folder", "another path"],
)
def test_a_member_that_is_not_a_file_at_its_path_is_refused(tmp_path: Path, fill: Fill, message: str) -> None:
    path = make_zip(tmp_path / "a.zip", fill)
    with pytest.raises(DataError, match=message):
        extract_members(path, [WANTED], tmp_path / "out")
    assert files_below(tmp_path) == {"a.zip"}


def test_an_implausible_compression_ratio_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOMB_FLOOR_BYTES", 1 << 20)
    zeros = bytes(2 << 20)
    member = SourceMember(path=WANTED.path, sha256=sha256(zeros))
    path = make_zip_of(tmp_path / "a.zip", zeros)
    with pytest.raises(DataError, match=r"would extract to 2,097,152 bytes, [\d,]+ times"):
        extract_members(path, [member], tmp_path / "out")
    assert files_below(tmp_path) == {"a.zip"}
    # Below the floor, the same bytes are accepted: label rasters are mostly zeros.
    monkeypatch.setattr(module, "BOMB_FLOOR_BYTES", 4 << 20)
    extract_members(path, [member], tmp_path / "out")


def test_a_member_above_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 1000)
    path = make_zip_of(tmp_path / "a.zip", CONTENT)
    with pytest.raises(DataError, match="expected at most 1,000 bytes"):
        extract_members(path, [WANTED], tmp_path / "out")


def test_no_more_than_the_declared_size_is_written(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    path = make_zip_of(tmp_path / "a.zip", zeros)
    content = path.read_bytes()
    assert content.count(struct.pack("<I", len(zeros))) == 2
    path.write_bytes(content.replace(struct.pack("<I", len(zeros)), struct.pack("<I", 100)))
    with pytest.raises((DataError, FetchError)):
        extract_members(path, [SourceMember(path="data/wanted.bin", sha256=sha256(zeros))], tmp_path / "out")
    left = [file for file in tmp_path.rglob("*") if file.is_file() and file != path]
    assert sum(file.stat().st_size for file in left) <= 100
    assert "data/wanted.bin" not in files_below(tmp_path / "out")


def test_a_member_with_a_wrong_hash_is_quarantined(tmp_path: Path) -> None:
    path = make_zip_of(tmp_path / "a.zip", b"other")
    with pytest.raises(FetchError, match=sha256(b"other")):
        extract_members(path, [WANTED], tmp_path / "out")
    assert files_below(tmp_path / "out") == {f"data/wanted.bin.bad-{sha256(b'other')[:8]}"}


def test_a_repeated_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        add_wanted(archive)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("data/wanted.bin", b"another")
    with pytest.raises(DataError, match="found 2"):
        extract_members(path, [WANTED], tmp_path / "out")


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = make_zip_of(tmp_path / "a.zip", CONTENT)
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1
    content[6] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="is encrypted"):
        extract_members(path, [WANTED], tmp_path / "out")


def test_a_flipped_byte_is_detected_without_a_hash(tmp_path: Path) -> None:
    path = make_zip_of(tmp_path / "a.zip", CONTENT)
    content = bytearray(path.read_bytes())
    content[len(b"data/wanted.bin") + 30 + 10] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="is not a complete"):
        extract_members(path, [SourceMember(path="data/wanted.bin")], tmp_path / "out")
    assert files_below(tmp_path) == {"a.zip"}


def test_truncated_archives_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = make_zip_of(tmp_path / "a.zip", CONTENT).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_bytes(b"<html>sign in</html>")
    with tarfile.open(tmp_path / "tar.zip", "w") as archive:
        archive.add(tmp_path / "text.zip", "data/wanted.bin")
    for name in ("cut.zip", "text.zip", "tar.zip"):
        with pytest.raises(DataError, match="is not a complete"):
            extract_members(tmp_path / name, [WANTED], tmp_path / "out")
    assert not (tmp_path / "out").exists()
