"""Fetching: good servers, bad servers, no server, files by hand, two processes at once, kills and full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from helpers.small_release import (
    BANDS,
    HEIGHT,
    WIDTH,
    LocalServer,
    local_server,
    npz_bytes,
    official_fields,
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
from mmrs_bench.scenes.files.fetch import ensure_files, fetch, missing_official, scene_folder
from mmrs_bench.scenes.files.verify import status, verify
from mmrs_bench.scenes.manifest import Manifest

GOOD = npz_bytes(**{name: array for name, array in small_arrays().items() if name not in ("train", "test")})
MASKS = npz_bytes(**{name: array for name, array in small_arrays().items() if name in ("train", "test")})
WRONG = b"<html>please sign in</html>"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as running:
        yield running


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def archive_source(server: LocalServer, content: bytes, path: str = "/release.zip") -> dict[str, object]:
    url = server.serve(path, content)
    member = {"path": "Release/scene.npz", "sha256": sha256(GOOD)}
    return {"file": "release.zip", "urls": [url], "sha256": sha256(content), "members": [member]}


def in_archive(fields: dict[str, object]) -> dict[str, object]:
    """The small scene's references, inside the folder of the archive."""
    ref = {"file": "Release/scene.npz"}
    return {
        "modalities": [
            {"name": "hsi", "sensor": "none", "bands": BANDS, "parts": [ref | {"key": "hsi"}]},
            {"name": "lidar", "sensor": "none", "bands": 2, "parts": [ref | {"key": "lidar"}]},
        ],
        "ground_truth": {"parts": [ref | {"key": "gt", "axes": "hw"}]},
        "sources": [fields],
    }


def test_plain_file_is_fetched_once(server: LocalServer, tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    lines: list[str] = []
    folder = fetch(manifest, progress=lines.append)
    assert folder == tmp_path / "data-root" / "small-r1"
    assert files_below(folder) == {"scene.npz"}
    assert any("fetching scene.npz" in line for line in lines)
    assert ensure_files(manifest) == fetch(manifest) == folder
    assert server.requests == ["/scene.npz"]


def test_archive_leaves_only_the_named_member(server: LocalServer, tmp_path: Path) -> None:
    content = zip_bytes({"Release/scene.npz": GOOD, "Release/other.bin": b"not named"})
    manifest = small_manifest(tmp_path, **in_archive(archive_source(server, content)))
    folder = ensure_files(manifest)
    assert files_below(folder) == {"Release/scene.npz"}
    assert load_scene(manifest).images["hsi"].shape == (HEIGHT, WIDTH, BANDS)
    assert len(server.requests) == 1


def test_404_goes_to_the_mirror(server: LocalServer, tmp_path: Path) -> None:
    source = plain_source(GOOD, server.url("/gone"), server.serve("/mirror", GOOD))
    lines: list[str] = []
    folder = fetch(small_manifest(tmp_path, sources=[source]), progress=lines.append)
    assert (folder / "scene.npz").read_bytes() == GOOD
    assert server.requests == ["/gone", "/mirror"]
    assert any("404" in line for line in lines)


@pytest.mark.parametrize("with_size", [True, False])
def test_truncated_answer_goes_to_the_mirror(server: LocalServer, tmp_path: Path, with_size: bool) -> None:
    def cut_off(handler: BaseHTTPRequestHandler) -> None:
        send(handler, GOOD[:300], announced=len(GOOD))
        handler.close_connection = True

    source = plain_source(GOOD, server.serve("/cut", cut_off), server.serve("/mirror", GOOD))
    if not with_size:
        del source["bytes"]
    folder = fetch(small_manifest(tmp_path, sources=[source]))
    assert files_below(folder) == {"scene.npz"}
    assert server.requests == ["/cut", "/mirror"]


def test_short_file_with_an_honest_header_is_quarantined(server: LocalServer, tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/short", GOOD[:300]))])
    with pytest.raises(FetchError, match="300 bytes, expected") as error:
        fetch(manifest)
    bad = f"scene.npz.bad-{sha256(GOOD[:300])[:8]}"
    assert bad in one_line(error)
    assert files_below(scene_folder(manifest)) == {bad}


def test_wrong_hash_is_quarantined_named_and_the_mirror_tried(server: LocalServer, tmp_path: Path) -> None:
    source = plain_source(GOOD, server.serve("/wrong", WRONG), server.serve("/mirror", GOOD))
    lines: list[str] = []
    folder = fetch(small_manifest(tmp_path, sources=[source]), progress=lines.append)
    bad = f"scene.npz.bad-{sha256(WRONG)[:8]}"
    assert files_below(folder) == {"scene.npz", bad}
    assert (folder / bad).read_bytes() == WRONG
    assert any(bad in line and sha256(GOOD) in line for line in lines)


def test_larger_file_than_declared_is_cut_short(server: LocalServer, tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/huge", GOOD * 3))])
    with pytest.raises(FetchError, match=f"more than the expected {len(GOOD):,} bytes"):
        fetch(manifest)
    assert files_below(scene_folder(manifest)) == set()


def test_hanging_server_times_out(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.3)

    def hang(handler: BaseHTTPRequestHandler) -> None:
        server.closing.wait(60)

    def hang_midway(handler: BaseHTTPRequestHandler) -> None:
        send(handler, GOOD[:100], announced=len(GOOD))
        server.closing.wait(60)

    urls = [server.serve("/hang", hang), server.serve("/midway", hang_midway)]
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, *urls)])
    with pytest.raises(FetchError) as error:
        fetch(manifest)
    message = one_line(error)
    assert message.count("no answer within 0.3 s") == 2
    assert all(url in message for url in urls)
    assert files_below(scene_folder(manifest)) == set()


def test_no_network_gives_one_line_with_everything(tmp_path: Path) -> None:
    with local_server() as gone:
        url = gone.url("/scene.npz")
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, url, manual="Ask the publisher.")])
    with pytest.raises(FetchError) as error:
        load_scene(manifest)
    message = one_line(error)
    place = tmp_path / "data-root" / "small-r1" / "scene.npz"
    command = f"mmrs-bench data fetch {manifest.path} --from DIR"
    for part in (
        f"{url}: Connection refused",
        sha256(GOOD),
        f"{len(GOOD):,} bytes",
        str(place),
        command,
        "Ask the publisher.",
    ):
        assert part in message
    place.write_bytes(GOOD)
    assert load_scene(manifest).num_classes == 3


def test_no_address_says_so(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, manual="A form is needed.")])
    with pytest.raises(FetchError, match=r"it has no public address.*A form is needed\."):
        ensure_files(manifest)


def test_shipped_scene_is_named_by_its_name() -> None:
    manifest = load_manifest("houston2013-original")
    assert "mmrs-bench data fetch houston2013-original --from DIR" in _hand(manifest)
    assert "form" in _hand(manifest)


def _hand(manifest: Manifest) -> str:
    from mmrs_bench.scenes.files.fetch import by_hand

    return by_hand(manifest, manifest.sources[0])


def test_data_root_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LocalServer) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMRS_BENCH_DATA", str(tmp_path / "file" / "data"))
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    with pytest.raises(FetchError, match=r"cannot write .*MMRS_BENCH_DATA") as error:
        ensure_files(manifest)
    one_line(error)
    assert server.requests == []


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LocalServer) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    real_open = Path.open

    def read_only(self: Path, mode: str = "r", *args: object, **more: object) -> object:
        if "w" in mode and self.suffix == ".part":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        return real_open(self, mode, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(FetchError, match="Read-only file system"):
        fetch(manifest)
    assert files_below(scene_folder(manifest)) == set()


def test_full_disk_leaves_nothing(tmp_path: Path, server: LocalServer) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full to stand for a full disk")
    content = zip_bytes({"Release/scene.npz": GOOD})
    manifest = small_manifest(tmp_path, **in_archive(archive_source(server, content)))
    folder = scene_folder(manifest)
    for place in (folder / "release.zip.part", folder / "Release" / "scene.npz.part"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to("/dev/full")  # every write to it fails as on a full disk
        with pytest.raises(FetchError, match=r"No space left on device.*nothing half-written"):
            fetch(manifest)
        assert files_below(folder) <= {"release.zip"}
    ensure_files(manifest)
    # The archive that had arrived before the disk was full was used, not fetched again.
    assert server.requests == ["/release.zip", "/release.zip"]


def test_full_disk_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: LocalServer) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transfer.os, "fsync", full)
        with pytest.raises(FetchError, match="No space left on device"):
            fetch(manifest)
    assert files_below(scene_folder(manifest)) == set()
    ensure_files(manifest)


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
    asked, go_on = threading.Event(), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        asked.set()
        go_on.wait(60)
        send(handler, GOOD)

    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", slow))])
    with start_child(manifest) as first:
        assert asked.wait(60)
        with start_child(manifest) as second:
            assert second.stdout is not None
            assert "another process is fetching it; waiting" in second.stdout.readline()
            go_on.set()
            assert (first.wait(60), second.wait(60)) == (0, 0), (first.stdout, second.stdout)
    assert server.requests == ["/scene.npz"]
    assert files_below(scene_folder(manifest)) == {"scene.npz"}


def test_killed_fetch_goes_on_where_it_stopped(tmp_path: Path, server: LocalServer) -> None:
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


def test_changed_file_is_quarantined_and_fetched_again(tmp_path: Path, server: LocalServer) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    file = ensure_files(manifest) / "scene.npz"
    file.write_bytes(WRONG)
    lines: list[str] = []
    ensure_files(manifest, progress=lines.append)
    assert file.read_bytes() == GOOD
    assert files_below(file.parent) == {"scene.npz", f"scene.npz.bad-{sha256(WRONG)[:8]}"}
    assert any("is wrong, expected" in line for line in lines)


def test_hashes_are_remembered(tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    file = fetch(manifest) / "scene.npz"
    hashed: list[Path] = []
    real = stamps.file_sha256
    monkeypatch.setattr(stamps, "file_sha256", lambda path: hashed.append(path) or real(path))
    ensure_files(manifest)
    assert hashed == []
    os.utime(file, ns=(1, 1))
    ensure_files(manifest)
    ensure_files(manifest)
    assert hashed == [file]


def test_unwritable_cache_only_costs_time(tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "file" / "cache"))
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    lines: list[str] = []
    ensure_files(manifest, progress=lines.append)
    assert any("hashes are not remembered" in line for line in lines)
    assert ensure_files(manifest).is_dir()


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        ("deep/release.zip", "archive by name"),
        ("renamed.zip", "archive by hash"),
        ("x/Release/scene.npz", "member by path"),
        ("scene.npz", "member by name"),
    ],
)
def test_from_folder(tmp_path: Path, server: LocalServer, layout: str, form: str) -> None:
    content = zip_bytes({"Release/scene.npz": GOOD})
    manifest = small_manifest(tmp_path, **in_archive(archive_source(server, content)))
    mine = tmp_path / "mine"
    file = mine / layout
    file.parent.mkdir(parents=True)
    file.write_bytes(content if form.startswith("archive") else GOOD)
    (mine / "decoy").mkdir()
    (mine / "decoy" / "scene.npz").write_bytes(WRONG)
    folder = fetch(manifest, source_dir=mine)
    assert files_below(folder) == {"Release/scene.npz"}
    assert server.requests == []
    assert file.exists()


def test_from_folder_without_the_file_names_what_it_looked_for(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD)])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "scene.npz").write_bytes(WRONG)
    with pytest.raises(FetchError, match=r"mine holds no scene\.npz with the expected hash"):
        fetch(manifest, source_dir=mine)
    with pytest.raises(ConfigError, match="is not a folder"):
        fetch(manifest, source_dir=mine / "absent")


def test_from_folder_falls_back_to_the_address(tmp_path: Path, server: LocalServer) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    mine = tmp_path / "mine"
    mine.mkdir()
    assert files_below(fetch(manifest, source_dir=mine)) == {"scene.npz"}


def test_data_dir_is_used_in_place_and_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "scene.npz").write_bytes(GOOD)
    manifest = small_manifest(tmp_path / "config", sources=[plain_source(GOOD)], data_dir="../mine")
    assert load_scene(manifest).height == HEIGHT
    assert files_below(mine) == {"scene.npz"}
    (mine / "scene.npz").write_bytes(WRONG)
    with pytest.raises(DataError, match="the manifest expects") as error:
        load_scene(manifest)
    one_line(error)
    assert files_below(mine) == {"scene.npz"}


def with_optional_masks(tmp_path: Path, *urls: str) -> Manifest:
    mask = {"file": "masks.npz", "axes": "hw"}
    return small_manifest(
        tmp_path,
        sources=[plain_source(GOOD), plain_source(MASKS, *urls, file="masks.npz", optional=True)],
        official_split=official_fields(train=mask | {"key": "train"}, test=mask | {"key": "test"}),
    )


def test_optional_file_may_stay_absent(tmp_path: Path) -> None:
    manifest = with_optional_masks(tmp_path)
    folder = scene_folder(manifest)
    folder.mkdir(parents=True)
    (folder / "scene.npz").write_bytes(GOOD)
    lines: list[str] = []
    fetch(manifest, progress=lines.append)
    assert any(line.startswith("optional: small-r1: masks.npz could not be fetched") for line in lines)
    assert load_scene(manifest).official is None
    assert all(part in missing_official(manifest) for part in ("masks.npz is missing", sha256(MASKS), str(folder)))
    assert "\n" not in missing_official(manifest)
    assert status(manifest).state == "present"
    assert status(manifest).missing == ("masks.npz",)
    (folder / "masks.npz").write_bytes(MASKS)
    official = load_scene(manifest).official
    assert official is not None
    assert [len(part) for part in official] == [6, 21]
    assert missing_official(manifest) == ""


def test_optional_file_is_fetched_where_there_is_an_address(tmp_path: Path, server: LocalServer) -> None:
    manifest = with_optional_masks(tmp_path, server.serve("/masks.npz", MASKS))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "scene.npz").write_bytes(GOOD)
    assert files_below(fetch(manifest, source_dir=mine)) == {"scene.npz", "masks.npz"}


def test_status_and_verify(tmp_path: Path, server: LocalServer) -> None:
    manifest = small_manifest(tmp_path, sources=[plain_source(GOOD, server.serve("/scene.npz", GOOD))])
    assert (status(manifest).state, status(manifest).missing) == ("absent", ("scene.npz",))
    assert [(row.file, row.found, row.ok) for row in verify(manifest)] == [("scene.npz", "absent", False)]
    folder = fetch(manifest)
    assert (status(manifest).state, status(manifest).folder) == ("present", folder)
    rows = verify(manifest)
    assert [row.file for row in rows] == ["scene.npz", "hsi", "lidar", "ground truth"]
    assert all(row.ok for row in rows)
    (folder / "scene.npz").write_bytes(WRONG)
    assert [(row.expected, row.found, row.ok) for row in verify(manifest)] == [(sha256(GOOD), sha256(WRONG), False)]
    assert files_below(folder) == {"scene.npz"}, "verify must not move files"


def test_verify_reads_the_contents(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays["gt"][0, 0] = 1
    content = npz_bytes(**arrays)
    manifest = small_manifest(tmp_path, sources=[plain_source(content)])
    folder = scene_folder(manifest)
    folder.mkdir(parents=True)
    (folder / "scene.npz").write_bytes(content)
    rows = verify(manifest)
    assert [row.ok for row in rows] == [True, False]
    assert "Grass has 13 pixels, expected 12" in rows[1].found


def test_simulated_scene_needs_no_files() -> None:
    manifest = load_manifest("sim-trento")
    lines: list[str] = []
    fetch(manifest, progress=lines.append)
    assert lines == ["sim-trento-r1: simulated, no files to fetch"]
    assert status(manifest).state == "simulated"
    assert verify(manifest) == []
