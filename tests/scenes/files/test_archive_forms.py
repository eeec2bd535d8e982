"""Archives as they really are: .tar.gz, names with backslashes or in legacy encodings, hashes that change over time."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers.small_release import (
    LocalServer,
    archive_manifest,
    extract,
    files_below,
    npz_bytes,
    sha256,
    small_arrays,
    zip_bytes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import BenchError, DataError, FetchError
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.files import archive as module
from mmrs_bench.scenes.files.archive import extract_members
from mmrs_bench.scenes.files.fetch import fetch, scene_folder
from mmrs_bench.scenes.manifest import Manifest, SourceMember

GOOD = npz_bytes(**small_arrays())
CONTENT = b"the wanted bytes " * 100
WANTED = SourceMember(path="data/wanted.bin", sha256=sha256(CONTENT))


def entry(name: str, size: int = 0, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def tar_bytes(*entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as archive:  # type: ignore[call-overload]
        for made, content in entries:
            archive.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def archived(tmp_path: Path, server: LocalServer, content: bytes, file: str = "a.zip") -> Manifest:
    """The small scene in an archive that has changed since its hash was stated."""
    url = server.serve(f"/{file}", content)
    return archive_manifest(tmp_path, file, url, archive_sha256="0" * 64, sha256=sha256(GOOD))


def wanted(name: str = WANTED.path, content: bytes = CONTENT) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, len(content)), content


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar", "w"), ("A.TAR.GZ", "w:gz")]
)
def test_tar_archives_are_extracted(tmp_path: Path, name: str, mode: str) -> None:
    link = entry("docs/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    content = tar_bytes((link, b""), wanted(), (entry("other"), b""), mode=mode)
    out = extract(tmp_path, content, WANTED, name=name)
    assert files_below(out) == {WANTED.path}
    assert (out / WANTED.path).read_bytes() == CONTENT


TAR_FAULTS: dict[str, tuple[bytes, str]] = {
    "symbolic link": (tar_bytes((entry(WANTED.path, type=tarfile.SYMTYPE, linkname="x"), b"")), "not a regular file"),
    "hard link": (tar_bytes((entry(WANTED.path, type=tarfile.LNKTYPE, linkname="x"), b"")), "is not a regular file"),
    "device": (tar_bytes((entry(WANTED.path, type=tarfile.CHRTYPE), b"")), "is not a regular file"),
    "pipe": (tar_bytes((entry(WANTED.path, type=tarfile.FIFOTYPE), b"")), "is not a regular file"),
    "folder": (tar_bytes((entry(WANTED.path, type=tarfile.DIRTYPE), b"")), "expected one member"),
    "outside": (tar_bytes(wanted(), (entry("../evil"), b"")), "points outside"),
    "absolute": (tar_bytes(wanted(), (entry("/evil"), b"")), "points outside"),
    "absent": (tar_bytes((entry("b/wanted.bin"), b"")), r"found 0 \(the archive contains b/wanted\.bin\)"),
    "twice": (tar_bytes(wanted(), wanted()), "found 2"),
    "cut off": (tar_bytes(wanted())[:-40], r"is not a complete \.tar\.gz archive|cannot read"),
    "no archive": (b"<html>sign in</html>", r"is not a complete \.tar\.gz archive"),
    "zip": (zip_bytes({WANTED.path: CONTENT}), r"is not a complete \.tar\.gz archive"),
    "empty": (b"", r"is not a complete|expected one member"),
}


@pytest.mark.parametrize("case", TAR_FAULTS)
def test_faulty_and_unsafe_tar_archives_are_refused(tmp_path: Path, case: str) -> None:
    content, message = TAR_FAULTS[case]
    with pytest.raises(DataError, match=message):
        extract(tmp_path, content, WANTED, name="a.tar.gz")
    assert files_below(tmp_path) == {"a.tar.gz"}


def test_an_implausible_tar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOMB_FLOOR_BYTES", 1 << 20)
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes((entry("zeros", 8 << 20), bytes(8 << 20)), wanted()))
    with pytest.raises(DataError, match="would extract to more than"):
        extract_members(tmp_path / "a.tar.gz", [WANTED], tmp_path / "out")
    header = entry("x", 1 << 32, type=tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header + bytes(1 << 20)))
    with pytest.raises(DataError, match="is not a complete"):
        extract_members(tmp_path / "b.tar.gz", [WANTED], tmp_path / "out")


@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
def test_a_changed_byte_never_gives_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, zipped: bool
) -> None:
    content = bytearray(zip_bytes({WANTED.path: CONTENT}) if zipped else tar_bytes(wanted(), mode="w"))
    content[place % len(content)] = byte
    path = tmp_path_factory.mktemp("a") / ("a.zip" if zipped else "a.tar")
    path.write_bytes(content)
    try:
        extract_members(path, [WANTED], path.parent / "out")
    except BenchError:
        return
    assert (path.parent / "out" / WANTED.path).read_bytes() == CONTENT


def raw_name(stored: bytes) -> bytes:
    """A .zip whose only member has this stored name, without the flag of UTF-8."""
    place = b"x" * len(stored)
    content = zip_bytes({place.decode(): CONTENT})
    assert content.count(place) == 2
    return content.replace(place, stored)


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("data/wanted.bin", b"data\\wanted.bin"),
        ("data/wanted.bin", b"./data/wanted.bin"),
        ("Stra\u00dfe/gt.mat", "Stra\u00dfe/gt.mat".encode("cp437")),
        ("Stra\u00dfe/gt.mat", "Stra\u00dfe\\gt.mat".encode("latin-1")),
        ("Stra\u00dfe/gt.mat", "Stra\u00dfe/gt.mat".encode()),
        ("\u6807\u7b7e/gt.mat", "\u6807\u7b7e/gt.mat".encode("gbk")),
        ("\u6807\u7b7e/gt.mat", "\u6807\u7b7e\\gt.mat".encode("gbk")),
    ],
)
def test_names_with_backslashes_and_in_legacy_encodings_are_found(tmp_path: Path, path: str, stored: bytes) -> None:
    assert (extract(tmp_path, raw_name(stored), SourceMember(path=path)) / path).read_bytes() == CONTENT


def test_a_legacy_name_outside_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="points outside"):
        extract(tmp_path, raw_name("..\\Stra\u00dfe".encode("latin-1")), WANTED)


def test_legacy_names_in_tar_archives_are_found(tmp_path: Path) -> None:
    content = tar_bytes(wanted("Stra\u00dfe\\gt.mat"), encoding="latin-1", format=tarfile.USTAR_FORMAT)
    out = extract(tmp_path, content, SourceMember(path="Stra\u00dfe/gt.mat"), name="a.tgz")
    assert (out / "Stra\u00dfe/gt.mat").read_bytes() == CONTENT


@pytest.mark.parametrize("offered", ["download", "folder", "from"])
def test_another_archive_with_the_right_members_is_accepted_with_a_note(
    tmp_path: Path, server: LocalServer, offered: str
) -> None:
    content, lines = zip_bytes({"Release/scene.npz": GOOD, "extra": b"1"}), []
    manifest = archived(tmp_path, server, content if offered == "download" else b"")
    mine = tmp_path / "mine" if offered == "from" else None
    if offered != "download":
        folder = mine or scene_folder(manifest)
        folder.mkdir(parents=True)
        (folder / "a.zip").write_bytes(content)
    fetch(manifest, source_dir=mine, progress=lines.append)
    (note,) = [line for line in lines if line.startswith("note: ")]
    assert all(part in note for part in (sha256(content), "0" * 64, "its members have their own hashes"))
    assert load_scene(manifest).num_classes == 3


@pytest.mark.parametrize("content", [zip_bytes({"Release/scene.npz": b"other"}), b"<html>"])
def test_another_archive_with_wrong_members_is_refused(tmp_path: Path, server: LocalServer, content: bytes) -> None:
    manifest = archived(tmp_path, server, content)
    with pytest.raises(FetchError, match=f"could not be fetched .*kept as .*a.zip.bad-{sha256(content)[:8]}"):
        fetch(manifest)
    assert not (scene_folder(manifest) / "Release/scene.npz").exists()


def test_without_hashes_of_members_the_archive_must_have_its_own(tmp_path: Path, server: LocalServer) -> None:
    url = server.serve("/a.zip", zip_bytes({"Release/scene.npz": GOOD}))
    with pytest.raises(FetchError, match=f"expected {'0' * 64}"):
        fetch(archive_manifest(tmp_path, "a.zip", url, archive_sha256="0" * 64))


@pytest.mark.parametrize("file", ["a.7z", "a.rar"])
def test_other_archives_are_unpacked_by_hand(tmp_path: Path, server: LocalServer, file: str) -> None:
    manifest = archived(tmp_path, server, b"7z", file)
    with pytest.raises(FetchError, match=rf"unpack {file} from .*--from DIR, where DIR contains Release/scene\.npz"):
        fetch(manifest)
    assert server.requests == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/scene.npz").write_bytes(GOOD)
    fetch(manifest, source_dir=tmp_path / "mine")
    assert load_scene(manifest).num_classes == 3


def test_an_unknown_compression_is_one_line(tmp_path: Path) -> None:
    content = bytearray(zip_bytes({WANTED.path: CONTENT}))
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        struct.pack_into("<H", content, content.index(signature) + offset, 98)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a complete \.zip archive"):
        extract_members(tmp_path / "a.zip", [WANTED], tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.infolist()[0].compress_type == 98
