"""Readers and manifests with real files; skipped without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_manifest, load_scene
from mmrs_bench.scenes.files.fetch import fetch
from mmrs_bench.scenes.files.formats import read_array
from mmrs_bench.scenes.files.verify import verify
from mmrs_bench.scenes.manifest import Manifest

#: Shared files, and their paths in the trento manifest.
TRENTO_FILES = {
    "trento/Italy_lidar.mat": "Trento-b4afc449ce5d6936ddc04fe267d86f9f35536afd/Italy_lidar.mat",
    "trento/allgrd.mat": "Trento-b4afc449ce5d6936ddc04fe267d86f9f35536afd/allgrd.mat",
    "trento/TRLabel.mat": "TRLabel.mat",
    "trento/TSLabel.mat": "TSLabel.mat",
}


def without_hsi(folder: Path) -> Manifest:
    """The trento manifest without the HSI, whose file is not available; the other files are in ``folder``."""
    real = load_manifest("trento")
    archive, *masks = real.sources
    archive = archive.model_copy(update={"members": tuple(m for m in archive.members if "hsi" not in m.path)})
    lidar = tuple(m for m in real.modalities if m.name == "lidar")
    update = {"modalities": lidar, "sources": (archive, *masks), "data_dir": str(folder)}
    return real.model_copy(update=update)


def test_trento_lidar_ground_truth_and_official_split(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trento"
    for there, here in TRENTO_FILES.items():
        (folder / here).parent.mkdir(parents=True, exist_ok=True)
        (folder / here).symlink_to(shared_data / there)
    scene = load_scene(without_hsi(folder))
    np.testing.assert_allclose(scene.images["lidar"].max(axis=(0, 1)), [20.15, 2901], atol=0.01)
    assert np.bincount(scene.labels)[1:].tolist() == [4034, 2903, 479, 9123, 10501, 3174]
    assert scene.official is not None
    train, test = scene.official
    assert (len(train), len(test)) == (819, 29_395)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), scene.labelled_pixels)
    assert all(row.ok for row in verify(without_hsi(folder)))


def test_trento_files_have_the_hashes_in_the_manifest(shared_data: Path) -> None:
    """Fetching verifies the hashes; it finds the files by name in a flat folder."""
    manifest = without_hsi(Path()).model_copy(update={"data_dir": None})
    folder = fetch(manifest, source_dir=shared_data / "trento")
    for there, here in TRENTO_FILES.items():
        assert (folder / here).read_bytes() == (shared_data / there).read_bytes()


def test_muufl_labels_and_lidar(shared_data: Path) -> None:
    """-1 becomes 0 and the eleven classes keep their pixels."""
    real = load_manifest("muufl")
    fields = real.model_dump(by_alias=True)
    fields["modalities"] = [fields["modalities"][1]]
    fields["modalities"][0]["parts"] = [{"file": "lidar_data.mat", "key": "lidar_data"}]
    fields["ground_truth"]["parts"] = [{"file": "labels.mat", "key": "labels", "axes": "hw"}]
    fields["sources"] = [{"file": "lidar_data.mat"}, {"file": "labels.mat"}]
    fields["data_dir"] = str(shared_data / "muufl")
    scene = load_scene(Manifest.model_validate(fields))
    assert scene.images["lidar"].shape == (325, 220, 2)
    assert np.bincount(scene.labels)[1:].tolist() == [c.count for c in real.classes]


def test_a_muufl_hsi_crop_and_the_struct_array_beside_it(shared_data: Path) -> None:
    """72 bands, their wavelengths (the key is misspelt in the file), and training spectra."""
    path, size = shared_data / "muufl" / "hsi_crop_31x20x72_cloths.mat", (31, 20)
    crop = read_array(path, "hsi_sub", size).array
    assert (crop.shape, crop.dtype) == ((*size, 72), np.float32)
    assert np.isfinite(crop).all()
    np.testing.assert_allclose(read_array(path, "wavlength", size).array.ravel()[[0, -1]], [367.7, 1043.4])
    assert 72 in read_array(path, "train_data[4].Spectra", size).array.shape


@pytest.mark.parametrize(("name", "official"), [("trento-lite", (819, 29_395)), ("muufl-lite", None)])
def test_lite_scene_through_its_example_manifest(
    shared_data: Path, name: str, official: tuple[int, int] | None
) -> None:
    manifest = load_manifest(str(REPOSITORY / "docs" / "examples" / f"{name}.yaml"))
    fetch(manifest, source_dir=shared_data)
    scene = load_scene(manifest)
    with np.load(shared_data / f"{name.replace('-', '_')}.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(scene.images["hsi"], arrays["rgb"].astype(np.float32))
        np.testing.assert_array_equal(scene.images["lidar"], arrays["lidar"])
        np.testing.assert_array_equal(scene.ground_truth, arrays["gt"])
    assert (scene.official and tuple(map(len, scene.official))) == official
    assert all(row.ok for row in verify(manifest))
