"""Fetching from a folder of the user: which files are trusted, incomplete releases, folders that stay unchanged."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.small_release import (
    LocalServer,
    archive_manifest,
    files_below,
    npz_bytes,
    plain_source,
    sha256,
    small_arrays,
    small_manifest,
    zip_bytes,
)

from mmrs_bench.errors import FetchError
from mmrs_bench.scenes.files import fetch as fetch_module
from mmrs_bench.scenes.files.fetch import ensure_files, fetch, scene_folder
from mmrs_bench.scenes.manifest import Manifest

GOOD = npz_bytes(**{name: array for name, array in small_arrays().items() if name not in ("train", "test")})
STALE = npz_bytes(hsi=small_arrays()["hsi"])
ARCHIVE = zip_bytes({"Release/scene.npz": GOOD})


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user with an old extracted file."""
    (tmp_path / "mine/old").mkdir(parents=True)
    (tmp_path / "mine/old/scene.npz").write_bytes(STALE)
    return tmp_path / "mine"


@pytest.fixture
def by_archive(tmp_path: Path) -> Manifest:
    """A scene that states the hash of its archive, and none of the file in it."""
    return archive_manifest(tmp_path, "town.zip", archive_sha256=sha256(ARCHIVE))


@pytest.mark.parametrize("name", ["town.zip", "renamed.zip"])
def test_the_archive_with_the_stated_hash_is_preferred_to_files_without_one(
    mine: Path, by_archive: Manifest, name: str
) -> None:
    (mine / name).write_bytes(ARCHIVE)
    for _ in range(2):  # a repeated fetch does not replace the file by the old one
        path = fetch(by_archive, source_dir=mine) / "Release/scene.npz"
        assert path.read_bytes() == GOOD


def test_without_the_archive_files_without_a_hash_are_refused(mine: Path, by_archive: Manifest) -> None:
    lines: list[str] = []
    with pytest.raises(FetchError, match=r"mine contains no town\.zip with the expected hash") as error:
        fetch(by_archive, source_dir=mine, progress=lines.append)
    assert "or its extracted files" not in str(error.value)
    assert lines == [
        f"{mine}/old/scene.npz: not taken, because the manifest gives no sha256 of Release/scene.npz; put town.zip "
        f"into {mine}, or give the hash"
    ]
    assert files_below(scene_folder(by_archive)) == set()


def test_without_any_hash_extracted_files_are_accepted(tmp_path: Path, mine: Path) -> None:
    sources = [{"file": "town.zip", "members": [{"path": "scene.npz"}]}]
    path = fetch(small_manifest(tmp_path, sources=sources), source_dir=mine) / "scene.npz"
    assert path.read_bytes() == STALE


def test_an_absent_or_unnamed_folder_is_refused(
    tmp_path: Path, by_archive: Manifest, refused: Callable[..., str]
) -> None:
    for folder, message in ((tmp_path / "absent", "absent: is not a folder"), ("", "--from is empty; name the folder")):
        assert message in refused("data", "fetch", by_archive.path, "--from", folder)


def two_members(tmp_path: Path, **changes: Any) -> Manifest:
    """A scene of an archive with two files that have hashes, and of a plain file."""
    members = [{"path": name, "sha256": sha256(content)} for name, content in (("scene.npz", GOOD), ("b.npz", b"b"))]
    archive = {"file": "town.zip", "sha256": sha256(b"absent"), "members": members}
    return small_manifest(tmp_path, sources=[archive, plain_source(b"c", file="c.npz")], **changes)


def test_an_incomplete_release_is_copied_and_what_is_missing_is_named(tmp_path: Path, mine: Path) -> None:
    manifest = two_members(tmp_path)
    (mine / "scene.npz").write_bytes(GOOD)
    with pytest.raises(FetchError) as error:
        fetch(manifest, source_dir=mine)
    assert f"{mine} contains no town.zip, nor b.npz with the expected hash" in str(error.value)
    assert f"{mine} contains no c.npz with the expected hash" in str(error.value)
    assert files_below(scene_folder(manifest)) == {"scene.npz"}
    (mine / "b.npz").write_bytes(b"b")
    with pytest.raises(FetchError, match=r"c\.npz could not be fetched") as error:
        fetch(manifest, source_dir=mine)
    assert "town.zip" not in str(error.value)
    assert files_below(scene_folder(manifest)) == {"scene.npz", "b.npz"}


def test_later_sources_are_provided_after_a_fault(tmp_path: Path, mine: Path) -> None:
    manifest = two_members(tmp_path)
    (mine / "c.npz").write_bytes(b"c")
    with pytest.raises(FetchError, match=r"nor scene\.npz, nor b\.npz with"):
        fetch(manifest, source_dir=mine)
    assert files_below(scene_folder(manifest)) == {"c.npz"}


def test_only_missing_members_are_extracted_from_a_download(tmp_path: Path, mine: Path, server: LocalServer) -> None:
    archive = zip_bytes({"scene.npz": GOOD, "b.npz": b"b"})
    members = [{"path": name, "sha256": sha256(content)} for name, content in (("scene.npz", GOOD), ("b.npz", b"b"))]
    source = plain_source(archive, server.serve("/town.zip", archive), file="town.zip", members=members)
    (mine / "scene.npz").write_bytes(GOOD)
    lines: list[str] = []
    fetch(small_manifest(tmp_path, sources=[source]), source_dir=mine, progress=lines.append)
    assert lines[0] == f"small-r1: copying {mine}/scene.npz"
    assert "extracting b.npz from" in lines[-1]


def unwritable(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize("fetching", [fetch, ensure_files])
def test_a_complete_folder_is_not_written(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch, fetching: Callable[..., Path]
) -> None:
    (mine / "scene.npz").write_bytes(GOOD)
    manifest = small_manifest(tmp_path / "config", sources=[plain_source(GOOD)], data_dir="../mine")
    monkeypatch.setattr(fetch_module, "FileLock", unwritable)
    monkeypatch.setattr(Path, "mkdir", unwritable)
    lines: list[str] = []
    assert fetching(manifest, progress=lines.append).samefile(mine)
    assert [line for line in lines if "not remembered" not in line] == []


def test_a_fetch_into_the_users_folder_leaves_only_the_data_there(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "town").mkdir()
    monkeypatch.chdir(tmp_path / "town")
    fetch(small_manifest(Path(), sources=[plain_source(STALE)], data_dir="."), source_dir=mine)
    assert files_below(tmp_path / "town") == {"scene.npz", "small.yaml"}


def test_one_folder_has_one_lock_by_whatever_path(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        manifest = small_manifest(tmp_path / folder, sources=[plain_source(STALE)], data_dir="../town")
        with pytest.raises(FetchError):
            fetch(manifest)
    assert len(list(tmp_path.rglob("*.lock"))) == 1


def test_users_of_a_shared_data_folder_have_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_DATA", str(tmp_path / "shared"))
    for user in ("one", "two"):
        monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / user))
        with pytest.raises(FetchError):
            fetch(small_manifest(tmp_path, sources=[plain_source(STALE)]))
    assert [path.parent for path in tmp_path.rglob("*.lock")] == [tmp_path / "shared"]


def test_an_unwritable_cache_does_not_stop_a_fetch(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "file/cache"))
    lines: list[str] = []
    manifest = small_manifest(tmp_path, sources=[plain_source(STALE)], data_dir="town")
    fetch(manifest, source_dir=mine, progress=lines.append)
    assert "cannot be written (Not a directory); do not start a second fetch" in lines[0]
