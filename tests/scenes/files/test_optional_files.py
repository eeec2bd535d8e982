"""Optional files of a scene: absent ones are reported, and those with an address are fetched."""

from __future__ import annotations

from pathlib import Path

from helpers.small_release import (
    LocalServer,
    files_below,
    npz_bytes,
    official_fields,
    plain_source,
    sha256,
    small_arrays,
    small_manifest,
)

from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.files.fetch import fetch, missing_official, scene_folder
from mmrs_bench.scenes.files.verify import SceneStatus, status
from mmrs_bench.scenes.manifest import Manifest

GOOD = npz_bytes(**{name: array for name, array in small_arrays().items() if name not in ("train", "test")})
MASKS = npz_bytes(**{name: array for name, array in small_arrays().items() if name in ("train", "test")})


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
    expected = "optional: small-r1: masks.npz could not be fetched"
    lines: list[str] = []
    fetch(manifest, progress=lines.append)
    assert any(line.startswith(expected) for line in lines)
    assert load_scene(manifest).official is None
    assert all(part in missing_official(manifest) for part in ("masks.npz is missing", sha256(MASKS), str(folder)))
    assert status(manifest) == SceneStatus("present", missing=("masks.npz",))
    (folder / "masks.npz").write_bytes(MASKS)
    assert [len(part) for part in load_scene(manifest).official] == [6, 21]
    assert missing_official(manifest) == ""


def test_an_optional_file_with_an_address_is_fetched(tmp_path: Path, server: LocalServer) -> None:
    manifest = with_optional_masks(tmp_path, server.serve("/masks.npz", MASKS))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scene.npz").write_bytes(GOOD)
    assert files_below(fetch(manifest, source_dir=tmp_path / "mine")) == {"scene.npz", "masks.npz"}
