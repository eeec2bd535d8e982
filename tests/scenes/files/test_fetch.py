"""Fetching: faulty servers, no server, files of the user, concurrent processes, killed processes, full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from helpers.small_release import (
    BANDS,
    HEIGHT,
    WIDTH,
    Answer,
    LocalServer,
    archive_manifest,
    files_below,
    local_server,
    npz_bytes,
    plain_source,
    send,
    sha256,
    small_arrays,
    small_manifest,
    zip_bytes,
)

from mmrs_bench.errors import ConfigError, DataError, FetchError
from mmrs_bench.scenes.catalogue import load_manifest, load_scene
from mmrs_bench.scenes.files import stamps, transfer
from mmrs_bench.scenes.files.fetch import ensure_files, fetch, manual_steps, scene_folder
from mmrs_bench.scenes.manifest import Manifest

GOOD = npz_bytes(**{name: array for name, array in small_arrays().items() if name not in ("train", "test")})
MASKS = npz_bytes(**{name: array for name, array in small_arrays().items() if name in ("train", "test")})
WRONG = b"<html>please sign in</html>"


@pytest.fixture
def served(server: LocalServer, tmp_path: Path) -> Manifest:
    """A scene of one plain file, which the server delivers."""
    return small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def place(manifest: Manifest, content: bytes = GOOD) -> Path:
    """Put a file into the scene's folder."""
    path = scene_folder(manifest) / "scene.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def progress_of(fetching: Callable[..., Path], manifest: Manifest) -> list[str]:
    lines: list[str] = []
    fetching(manifest, progress=lines.append)
    return lines


def archived(tmp_path: Path, server: LocalServer, **other: bytes) -> Manifest:
    """The small scene in an archive, which the server delivers."""
    content = zip_bytes({"Release/scene.npz": GOOD, **other})
    url = server.serve("/release.zip", content)
    return archive_manifest(tmp_path, "release.zip", url, archive_sha256=sha256(content), sha256=sha256(GOOD))


def test_plain_file_is_fetched_once(server: LocalServer, tmp_path: Path, served: Manifest) -> None:
    folder = tmp_path / "data-root" / "small-r1"
    assert any("fetching scene.npz" in line for line in progress_of(fetch, served))
    assert files_below(folder) == {"scene.npz"}
    assert ensure_files(served) == fetch(served) == folder
    assert server.requests == ["/scene.npz"]


def test_archive_leaves_only_the_named_member(server: LocalServer, tmp_path: Path) -> None:
    manifest = archived(tmp_path, server, other=b"not named")
    folder = ensure_files(manifest)
    assert files_below(folder) == {"Release/scene.npz"}
    assert load_scene(manifest).images["hsi"].shape == (HEIGHT, WIDTH, BANDS)
    assert len(server.requests) == 1


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    send(handler, GOOD[:300], announced=len(GOOD))
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.server.closing.wait(60)


def hang_midway(handler: BaseHTTPRequestHandler) -> None:
    send(handler, GOOD[:100], announced=len(GOOD))
    hang(handler)


#: Faulty answers of a server, what the message says, and the bytes that are quarantined.
FAULTS: dict[str, tuple[Answer | None, str, bytes]] = {
    "not found": (None, "404", b""),
    "truncated": (cut_off, "", b""),
    "truncated, size unknown": (cut_off, "", b""),
    "short with a correct header": (GOOD[:300], "300 bytes, expected", GOOD[:300]),
    "other content": (WRONG, f"expected {sha256(GOOD)}", WRONG),
    "larger than declared": (GOOD * 3, f"more than the expected {len(GOOD):,} bytes arrived", b""),
    "no answer": (hang, "no answer within 0.3 s", b""),
    "no end": (hang_midway, "no answer within 0.3 s", b""),
}


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_is_reported_and_the_mirror_used(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, mirrored: bool
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.3)
    answer, message, quarantined = FAULTS[fault]
    url = server.url("/gone") if answer is None else server.serve("/faulty", answer)
    source = plain_source(GOOD, url, *([server.serve("/mirror", GOOD)] if mirrored else []))
    if fault.endswith("unknown"):
        del source["bytes"]
    manifest = small_manifest(tmp_path, sources=[source])
    lines: list[str] = []
    if mirrored:
        fetch(manifest, progress=lines.append)
    else:
        with pytest.raises(FetchError) as error:
            fetch(manifest)
        lines.append(str(error.value))
    bad = {f"scene.npz.bad-{sha256(quarantined)[:8]}"} if quarantined else set()
    assert any(all(part in line for part in (url, message, *bad)) for line in lines)
    assert files_below(scene_folder(manifest)) == bad | ({"scene.npz"} if mirrored else set())
    assert server.requests == [url[len(server.url("")) :]] + ["/mirror"] * mirrored


def test_without_network_one_line_has_all_instructions(tmp_path: Path) -> None:
    with local_server() as gone:
        url = gone.url("/scene.npz")
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, url, manual="Ask the publisher.")])
    with pytest.raises(FetchError) as error:
        load_scene(manifest)
    path = tmp_path / "data-root" / "small-r1" / "scene.npz"
    command = f"mmrs-bench data fetch {manifest.path} --from DIR"
    facts = (f"{url}: Connection refused", sha256(GOOD), f"{len(GOOD):,} bytes", str(path), command)
    assert all(fact in str(error.value) for fact in (*facts, "Ask the publisher."))
    assert place(manifest) == path
    assert load_scene(manifest).num_classes == 3


def test_a_source_without_address_gives_its_manual_steps(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, manual="A form is needed.")])
    with pytest.raises(FetchError, match=r"it has no public address.*A form is needed\."):
        ensure_files(manifest)


def test_manual_steps_use_the_name_of_a_shipped_scene() -> None:
    manifest = load_manifest("houston2013-original")
    steps = manual_steps(manifest, manifest.sources[0])
    assert "mmrs-bench data fetch houston2013-original --from DIR" in steps
    assert "form" in steps


def test_an_impossible_data_root_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LocalServer, served: Manifest
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMRS_BENCH_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(FetchError, match=r"cannot write .*MMRS_BENCH_DATA"):
        ensure_files(served)
    assert server.requests == []


def test_a_read_only_folder_is_an_error(monkeypatch: pytest.MonkeyPatch, served: Manifest) -> None:
    real_open = Path.open

    def read_only(self: Path, mode: str = "r", *args: object, **more: object) -> object:
        if "w" in mode and self.suffix == ".part":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return real_open(self, mode, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(FetchError, match="Read-only file system"):
        fetch(served)
    assert files_below(scene_folder(served)) == set()


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path, server: LocalServer) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full, which acts like a full disk")
    manifest = archived(tmp_path, server)
    folder = scene_folder(manifest)
    for part in (folder / "release.zip.part", folder / "Release" / "scene.npz.part"):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.symlink_to("/dev/full")
        with pytest.raises(FetchError, match=r"No space left on device.*no partial file"):
            fetch(manifest)
        assert files_below(folder) <= {"release.zip"}
    ensure_files(manifest)
    # The archive of the second attempt was complete, so it is not fetched again.
    assert server.requests == ["/release.zip", "/release.zip"]


def test_a_failed_fsync_leaves_no_file(monkeypatch: pytest.MonkeyPatch, served: Manifest) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", full)
        with pytest.raises(FetchError, match="No space left on device"):
            fetch(served)
    assert files_below(scene_folder(served)) == set()
    ensure_files(served)


CHILD = """
import sys
from pathlib import Path
from mmrs_bench.scenes.files.fetch import fetch
from mmrs_bench.scenes.catalogue import read_manifest
fetch(read_manifest(Path(sys.argv[1])), progress=lambda line: print(line, flush=True))
"""


def start_child(manifest: Manifest) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(manifest.path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_share_one_download(tmp_path: Path, server: LocalServer) -> None:
    requested, proceed = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        requested.set()
        proceed.wait(60)
        send(handler, GOOD)

    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", slow))])
    with start_child(manifest) as first:
        assert requested.wait(60)
        with start_child(manifest) as second:
            assert "another process is fetching it; waiting" in second.stdout.readline()
            proceed.set()
            assert (first.wait(60), second.wait(60)) == (0, 0), (first.stdout, second.stdout)
    assert server.requests == ["/scene.npz"]
    assert files_below(scene_folder(manifest)) == {"scene.npz"}


def test_a_killed_fetch_is_resumed(tmp_path: Path, server: LocalServer) -> None:
    halfway = threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        send(handler, MASKS[:200], announced=len(MASKS))
        halfway.set()
        server.closing.wait(60)

    sources = [
        plain_source(GOOD, server.serve("/scene.npz", GOOD)),
        plain_source(MASKS, server.serve("/masks.npz", half), file="masks.npz"),
    ]
    manifest = small_manifest(tmp_path, sources=sources)
    with start_child(manifest) as child:
        assert halfway.wait(60)
        child.send_signal(signal.SIGKILL)
    folder = scene_folder(manifest)
    assert "masks.npz" not in files_below(folder)
    server.serve("/masks.npz", MASKS)
    fetch(manifest)
    assert files_below(folder) == {"scene.npz", "masks.npz"}
    assert server.requests == ["/scene.npz", "/masks.npz", "/masks.npz"]


def test_changed_file_is_quarantined_and_fetched_again(served: Manifest) -> None:
    file = ensure_files(served) / "scene.npz"
    file.write_bytes(WRONG)
    lines = progress_of(ensure_files, served)
    assert file.read_bytes() == GOOD
    assert files_below(file.parent) == {"scene.npz", f"scene.npz.bad-{sha256(WRONG)[:8]}"}
    assert any("is wrong, expected" in line for line in lines)


def test_hashes_are_remembered(monkeypatch: pytest.MonkeyPatch, served: Manifest) -> None:
    file = fetch(served) / "scene.npz"
    hashed: list[Path] = []
    real = stamps.file_sha256
    monkeypatch.setattr(stamps, "file_sha256", lambda path: hashed.append(path) or real(path))
    ensure_files(served)
    assert hashed == []
    os.utime(file, ns=(1, 1))
    ensure_files(served)
    ensure_files(served)
    assert hashed == [file]


def test_an_unwritable_cache_is_only_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Manifest
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert any("hashes are not remembered" in line for line in progress_of(ensure_files, served))
    assert ensure_files(served).is_dir()


@pytest.mark.parametrize(
    "layout",
    ["deep/release.zip", "renamed.zip", "x/Release/scene.npz", "scene.npz"],
    ids=["archive by name", "archive by hash", "member by path", "member by name"],
)
def test_files_of_the_user_are_found(tmp_path: Path, server: LocalServer, layout: str, mine: Path) -> None:
    manifest = archived(tmp_path, server)
    file = mine / layout
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(server.answers["/release.zip"] if layout.endswith(".zip") else GOOD)
    (mine / "decoy").mkdir()
    (mine / "decoy" / "scene.npz").write_bytes(WRONG)
    folder = fetch(manifest, source_dir=mine)
    assert files_below(folder) == {"Release/scene.npz"}
    assert server.requests == []
    assert file.exists()


def test_a_changed_file_of_the_user_without_a_hash_replaces_the_old_copy(tmp_path: Path, mine: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[{"file": "scene.npz"}])
    (mine / "scene.npz").write_bytes(b"first")
    folder = fetch(manifest, source_dir=mine)
    assert fetch(manifest, source_dir=mine) == folder
    (mine / "scene.npz").write_bytes(GOOD)
    lines: list[str] = []
    fetch(manifest, source_dir=mine, progress=lines.append)
    assert (folder / "scene.npz").read_bytes() == GOOD
    assert lines[0] == "small-r1: scene.npz has changed"
    assert progress_of(ensure_files, manifest) == []
    in_place = small_manifest(tmp_path / "config", sources=[{"file": "scene.npz"}], data_dir="data")
    (tmp_path / "config/data").mkdir()
    (tmp_path / "config/data/scene.npz").write_bytes(b"first")
    with pytest.raises(DataError, match=r"differs from .*; copy it yourself"):
        fetch(in_place, source_dir=mine)


def test_a_downloaded_file_without_a_hash_is_kept_and_this_is_said(server: LocalServer, tmp_path: Path) -> None:
    source = {"file": "scene.npz", "urls": [server.serve("/scene.npz", WRONG)]}
    manifest = small_manifest(tmp_path, sources=[source])
    path = fetch(manifest) / "scene.npz"
    server.serve("/scene.npz", GOOD)
    assert progress_of(fetch, manifest) == [
        f"{path}: kept, because the manifest gives no sha256; delete the file to fetch it again"
    ]
    path.unlink()
    fetch(manifest)
    assert path.read_bytes() == GOOD


def test_the_nearest_file_of_the_user_is_taken_and_several_others_are_refused(tmp_path: Path, mine: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[{"file": "scene.npz"}])
    for folder, content in (("backup", WRONG), ("old", WRONG)):
        (mine / folder).mkdir()
        (mine / folder / "scene.npz").write_bytes(content)
    (mine / "scene.npz").write_bytes(GOOD)
    path = fetch(manifest, source_dir=mine) / "scene.npz"
    assert path.read_bytes() == GOOD
    path.unlink()
    (mine / "scene.npz").rename(mine / "old" / "scene.npz")
    with pytest.raises(FetchError, match=r"backup/scene\.npz and .*old/scene\.npz differ, and the manifest gives no"):
        fetch(manifest, source_dir=mine)
    (mine / "old" / "scene.npz").write_bytes(WRONG)
    assert (fetch(manifest, source_dir=mine) / "scene.npz").read_bytes() == WRONG


def test_an_absent_file_of_the_user_is_named(tmp_path: Path, mine: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD)])
    (mine / "scene.npz").write_bytes(WRONG)
    with pytest.raises(FetchError, match=r"mine contains no scene\.npz with the expected hash"):
        fetch(manifest, source_dir=mine)
    with pytest.raises(ConfigError, match="is not a folder"):
        fetch(manifest, source_dir=mine / "absent")


def test_an_absent_file_of_the_user_is_downloaded(tmp_path: Path, served: Manifest, mine: Path) -> None:
    assert files_below(fetch(served, source_dir=mine)) == {"scene.npz"}


def test_data_dir_is_used_in_place_and_never_touched(tmp_path: Path, mine: Path) -> None:
    (mine / "scene.npz").write_bytes(GOOD)
    manifest = small_manifest(tmp_path / "config", sources=[plain_source(GOOD)], data_dir="../mine")
    assert load_scene(manifest).height == HEIGHT
    assert files_below(mine) == {"scene.npz"}
    (mine / "scene.npz").write_bytes(WRONG)
    with pytest.raises(DataError, match="the manifest expects"):
        load_scene(manifest)
    assert files_below(mine) == {"scene.npz"}
