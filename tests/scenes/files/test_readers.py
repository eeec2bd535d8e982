"""Scenes from files: real layouts are read, and each contradiction to the manifest is an error that says what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.matlab_files import WRITERS, Writer
from helpers.rasters import write_tif
from helpers.small_release import (
    BANDS,
    HEIGHT,
    WIDTH,
    local_server,
    manifest_fields,
    modality,
    official_fields,
    plain_source,
    roi_text,
    scene_of_arrays,
    sha256,
    small_arrays,
    small_manifest,
    zip_bytes,
)

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.scene import Scene

SIZE = (HEIGHT, WIDTH)


def check_scene(scene: Scene) -> None:
    arrays = small_arrays()
    for name in ("hsi", "lidar"):
        image = scene.images[name]
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, arrays[name])
    assert scene.ground_truth.dtype == np.int64
    np.testing.assert_array_equal(scene.ground_truth, arrays["gt"])


def test_npz_scene(tmp_path: Path) -> None:
    scene = scene_of_arrays(tmp_path, {}, official_split=official_fields())
    check_scene(scene)
    arrays = small_arrays()
    for pixels, name in zip(scene.official, ("train", "test"), strict=True):
        np.testing.assert_array_equal(pixels, np.flatnonzero(arrays[name]))
        assert pixels.dtype == np.int64


def test_large_values_that_float32_contains_exactly_are_read(tmp_path: Path) -> None:
    counted = (small_arrays()["hsi"].view("i4") % 50 + 10**7).astype("f8")
    np.testing.assert_array_equal(scene_of_arrays(tmp_path, {"hsi": counted}).images["hsi"], counted)


@pytest.mark.parametrize("axes", ["hwc", "chw", "whc", "cwh"])
def test_axes_are_transposed(tmp_path: Path, axes: str) -> None:
    turned = small_arrays()["hsi"].transpose(["hwc".index(axis) for axis in axes])
    modalities = manifest_fields()["modalities"]
    modalities[0]["parts"][0]["axes"] = axes
    check_scene(scene_of_arrays(tmp_path, {"hsi": turned}, modalities=modalities))


@pytest.mark.parametrize(
    ("name", "order", "fix"),
    [("hsi", (2, 0, 1), "set axes: chw"), ("hsi", (1, 0, 2), "set axes: whc"), ("gt", (1, 0), "set axes: wh")],
)
def test_wrong_axes_name_the_setting_that_fits(tmp_path: Path, name: str, order: tuple[int, ...], fix: str) -> None:
    with pytest.raises(DataError, match=fix) as error:
        scene_of_arrays(tmp_path, {name: small_arrays()[name].transpose(order)})
    assert "has shape" in str(error.value)


def test_a_raster_without_channels_needs_two_axes(tmp_path: Path) -> None:
    modalities = manifest_fields()["modalities"]
    modalities[1]["bands"] = 1
    flat = small_arrays()["lidar"][:, :, 0]
    with pytest.raises(DataError, match="set axes: hw"):
        scene_of_arrays(tmp_path, {"lidar": flat}, modalities=modalities)
    modalities[1]["parts"][0]["axes"] = "hw"
    assert scene_of_arrays(tmp_path, {"lidar": flat}, modalities=modalities).images["lidar"].shape == (*SIZE, 1)


def test_parts_are_stacked_in_order(tmp_path: Path) -> None:
    arrays = small_arrays()
    parts = [{"file": "scene.npz", "key": "a", "axes": "hw"}, {"file": "scene.npz", "key": "b"}]
    modalities = manifest_fields()["modalities"]
    modalities[0]["parts"] = parts
    split = {"a": arrays["hsi"][:, :, 0], "b": arrays["hsi"][:, :, 1:]}
    check_scene(scene_of_arrays(tmp_path, split, modalities=modalities))
    for wrong, total in ((arrays["hsi"][:, :, 2:], 3), (arrays["hsi"], 5)):
        with pytest.raises(DataError, match=f"have {total} channels together, expected bands: 4"):
            scene_of_arrays(tmp_path, split | {"b": wrong}, modalities=modalities)


def changed(name: str, place: Any, value: float, dtype: str | None = None) -> dict[str, np.ndarray]:
    array = small_arrays()[name].copy()
    array = array.astype(dtype) if dtype else array
    array[place] = value
    return {name: array}


def official(**changes: Any) -> dict[str, Any]:
    return {"official_split": official_fields(**changes)}


OTHER_KEY = {"file": "scene.npz", "key": "labels", "axes": "hw"}
MINUS_ONE = {"unlabelled": -1} | manifest_fields()["ground_truth"]

CONTRADICTIONS: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "nan": (changed("hsi", (1, 2, 3), np.nan), {}, r"hsi: NaN or infinite values in 1 of 4 bands \(band 3: 1"),
    "infinite": (changed("lidar", (slice(2), 2, 1), -np.inf), {}, r"lidar: NaN .* 1 of 2 bands \(band 1: 2"),
    "too large": (changed("hsi", (0, 0, 0), 1e300, "f8"), {}, r"band 0: 1"),
    "constant": (changed("hsi", (..., 2), 7.5), {}, r"band 2 is 7\.5 everywhere"),
    "constant and not a float32": (changed("hsi", (..., 2), 0.1, "f8"), {}, r"band 2 is 0\.1 everywhere"),
    "constant in float32 only": (
        {"hsi": small_arrays()["hsi"].astype("f8") + 1e10},
        {},
        r"scene\.npz\[hsi\]: float32, .*cannot resolve the values of 4 of 4 bands \(band 0: 9999.*subtract an",
    ),
    "coarse in float32": (
        {"lidar": small_arrays()["lidar"].astype("f8") - 8e6},
        {},
        r"lidar\]: float32, .*cannot resolve the values of 2 of 2 bands \(band 0: -800000",
    ),
    "large integers": (
        {"hsi": small_arrays()["hsi"].view("i4") % 50 + 2**30},
        {},
        "cannot resolve the values of 4 of 4 bands",
    ),
    "flattened": (
        {"gt": small_arrays()["gt"].reshape(1, -1)},
        {},
        "has shape 1x54 .*; it is flattened, so reshape it in the file to 6 rows x 9 columns",
    ),
    "other raster": (
        {"hsi": np.ones((5, 9, 4))},
        {},
        "has shape 5x9x4 .*expected 6 rows x 9 columns x 4.*another raster",
    ),
    "other bands": ({"hsi": np.ones((6, 9, 5))}, {}, r"6x9x5.*x 4 channels; it has 5 channels, so correct"),
    "other size": ({"hsi": np.ones((9, 6, 4))}, {}, r"9x6x4.*; set axes: whc, or exchange height and width"),
    "mark of missing values": (
        changed("lidar", (0, slice(3), 1), np.finfo(np.float32).min),
        {},
        r"lidar: values beyond 1e\+30 in 1 of 2 bands \(band 1: 3; .*usually mark missing values; fill them",
    ),
    "beyond memory": (
        {},
        {"modalities": [modality("hsi", 10**15, *[{"file": "scene.npz", "key": "hsi"}] * 2)]},
        r"hsi: needs [\d,]+\.\d GiB of memory",
    ),
    "no key": (
        {},
        {"ground_truth": {"parts": [{"file": "scene.npz", "axes": "hw"}]}},
        "gives no key; present: gt, hsi",
    ),
    "missing key": ({}, {"ground_truth": {"parts": [OTHER_KEY]}}, "no 'labels'; present: gt, hsi, lidar, test, train"),
    "unknown class": (
        changed("gt", (0, slice(2)), 9),
        {},
        r"unknown values 9 \(2 pixels\), expected \[1, 2, 3\] for the classes and \[0\] for no label; these lines "
        r"would fit: set ground_truth\.ignore: \[0, 9\]",
    ),
    "negative": (
        changed("gt", (0, 0), -1, "i2"),
        {},
        r"values -1 \(1 pixels\), .*; set ground_truth\.ignore: \[-1\] if they mean no label",
    ),
    "fraction": (changed("gt", (0, 0), 0.5, "f4"), {}, r"unknown values 0\.5 \(1 pixels\)"),
    "label nan": (
        changed("gt", (0, 0), np.nan, "f4"),
        {},
        r"\.nan \(1 pixels\), .*; set ground_truth\.ignore: \[\.nan\]",
    ),
    "label infinite": (changed("gt", (0, 0), np.inf, "f4"), {}, r"unknown values inf \(1 pixels\)"),
    "counts": (changed("gt", (0, 0), 2), {}, "Road has 10 pixels, expected 9; it is another version"),
    "unlabelled": (
        {},
        {"ground_truth": MINUS_ONE},
        r"values 0 \(27 pixels\), .* and \[-1\] for no label; set .*ignore: \[-1, 0\]",
    ),
    "overlap": ({"test": small_arrays()["gt"]}, official(test_counts=None), "6 pixels are in train and in test"),
    "outside": (changed("train", (0, 0), 1), official(), "1 pixels disagree with the ground truth"),
    "other class": (changed("train", (0, 2), 3), official(), "1 pixels disagree with the ground truth"),
    "official counts": ({}, official(train_counts=[3, 2, 2]), r"\[train\]: Water has 1 pixels, expected 2"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_contradiction_is_an_error_that_names_what_was_found(tmp_path: Path, case: str) -> None:
    arrays, changes, message = CONTRADICTIONS[case]
    with pytest.raises(DataError, match=message) as error:
        scene_of_arrays(tmp_path, arrays, **changes)
    assert "small-r1" in str(error.value) or str(tmp_path) in str(error.value)


def test_only_the_first_faults_are_listed(tmp_path: Path) -> None:
    image = np.full((*SIZE, BANDS), np.nan)
    modalities = manifest_fields()["modalities"]
    modalities[0]["bands"] = 40
    with pytest.raises(DataError, match=r"in 40 of 40 bands .*band 4: 54, \.\.\.; counted"):
        scene_of_arrays(tmp_path, {"hsi": np.tile(image, 10)}, modalities=modalities)


def test_ground_truth_is_joined_from_its_parts(tmp_path: Path) -> None:
    parts = [{"file": "scene.npz", "key": key, "axes": "hw"} for key in ("train", "test")]
    check_scene(scene_of_arrays(tmp_path, {}, ground_truth={"parts": parts}))
    test = small_arrays()["test"].copy()
    test[0, 2] = 3  # class 1 in the train part
    with pytest.raises(DataError, match=r"\[test\]: 1 pixels have another class in another part"):
        scene_of_arrays(tmp_path, {"test": test}, ground_truth={"parts": parts})


def positions(name: str, base: int) -> np.ndarray:
    rows = np.argwhere(small_arrays()[name]) + base
    return np.random.default_rng(3).permutation(rows).astype(np.int32)


def index_scene(tmp_path: Path, base: int, **arrays: np.ndarray) -> Scene:
    lists = {"tr": positions("train", 0), "te": positions("test", 0)} | arrays
    train, test = ({"file": "scene.npz", "key": key} for key in ("tr", "te"))
    split = official_fields(kind="index", index_base=base, train=train, test=test)
    return scene_of_arrays(tmp_path, lists, official_split=split)


@pytest.mark.parametrize("declared", [0, 1])
def test_a_wrong_index_base_names_the_right_one(tmp_path: Path, declared: int) -> None:
    other = 1 - declared
    with pytest.raises(DataError, match=f"index_base: {declared}, .*fit another form, so set .*index_base: {other}"):
        index_scene(tmp_path, declared, tr=positions("train", other), te=positions("test", other))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (positions("train", 0)[:, ::-1], r"so set columns: \[x, y\], index_base: 0$"),
        (np.repeat(positions("train", 0)[:3], 2, axis=0), "3 positions are repeated; no other form fits"),
        (positions("train", 0).T, r"is int32 2x6, expected integers Nx2 .*; save its transpose"),
        (positions("train", 0) + 0.5, r"expected integers Nx2"),
        (np.full((6, 2), np.inf), r"expected integers Nx2"),
        (positions("train", 0)[1:], "expected"),
        (positions("train", 100), "6 of 6 positions lie outside the raster"),
        (np.array([[0, 0]] * 6), "6 of 6 positions are unlabelled"),
    ],
)
def test_faulty_index_lists(tmp_path: Path, rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        index_scene(tmp_path, 0, tr=rows)


@pytest.mark.parametrize("inline", [True, False])
def test_original_houston_release(tmp_path: Path, inline: bool) -> None:
    """GeoTIFF rasters, train regions inside the archive folder, test regions beside it."""
    arrays = small_arrays()
    (tmp_path / "2013_DFTC").mkdir()
    for file, name in (("CASI", "hsi"), ("LiDAR", "lidar")):
        write_tif(tmp_path / f"2013_DFTC/{file}.tif", arrays[name].transpose(2, 0, 1))
    (tmp_path / "2013_DFTC/TR.txt").write_text(roi_text(arrays["train"], inline=inline))
    (tmp_path / "VA.txt").write_text(roi_text(arrays["test"], inline=inline))
    train, test = {"file": "2013_DFTC/TR.txt", "axes": "hw"}, {"file": "VA.txt", "axes": "hw"}
    rasters = {"hsi": ("2013_DFTC/CASI.tif", BANDS), "lidar": ("2013_DFTC/LiDAR.tif", 2)}
    manifest = small_manifest(
        tmp_path,
        modalities=[modality(name, bands, {"file": file, "axes": "chw"}) for name, (file, bands) in rasters.items()],
        ground_truth={"parts": [train, test]},
        official_split=official_fields(train=train, test=test),
        sources=[{"file": file} for file in (*(file for file, _ in rasters.values()), train["file"], test["file"])],
    )
    scene = read_scene(manifest, tmp_path)
    check_scene(scene)
    np.testing.assert_array_equal(scene.official[0], np.flatnonzero(arrays["train"]))


Layout = Callable[[dict[str, np.ndarray]], tuple[dict[str, dict[str, Any]], dict[str, Any]]]


def trento_like(arrays: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Files of a release with their variables, and the fields of its manifest."""
    hsi, lidar, gt = (f"Trento-0123abc/{name}.mat" for name in ("Italy_hsi", "Italy_lidar", "allgrd"))
    files = {hsi: {"data": arrays["hsi"]}, lidar: {"data": arrays["lidar"]}, gt: {"mask_test": arrays["gt"]}}
    return files, {
        "modalities": [
            modality("hsi", BANDS, {"file": hsi, "key": "data"}),
            modality("lidar", 2, {"file": lidar, "key": "data"}),
        ],
        "ground_truth": {"parts": [{"file": gt, "key": "mask_test", "axes": "hw"}]},
    }


def muufl_like(arrays: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    struct = {
        "Data": arrays["hsi"],
        "Lidar": [{"x": np.eye(2), "z": arrays["lidar"]}, {"x": np.eye(2), "z": -arrays["lidar"]}],
        "sceneLabels": {
            "labels": np.where(arrays["gt"] == 0, -1, arrays["gt"].astype(np.float64)),
            "Materials_Type": ["Grass", "Road", "Water"],
        },
        "info": {"wavelength": np.arange(4.0)},
    }
    ref = {"file": "MUUFLGulfport-0.1/Labels/scene.mat"}
    return {ref["file"]: {"hsi": struct}}, {
        "modalities": [
            modality("hsi", BANDS, ref | {"key": "hsi.Data"}),
            modality("lidar", 2, ref | {"key": "hsi.Lidar[0].z"}),
        ],
        "ground_truth": {"unlabelled": -1, "parts": [ref | {"key": "hsi.sceneLabels.labels", "axes": "hw"}]},
    }


def augsburg_like(arrays: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    index = {"c_train": positions("train", 0), "c_test": positions("test", 0), "c_all": np.argwhere(np.ones(SIZE))}
    files = {
        "C/c_hsi.mat": {"c_hsi": arrays["hsi"]},
        "C/c_sar.mat": {"c_sar": arrays["lidar"].astype(np.float64)},
        "C/c_gt.mat": {"c_gt": arrays["gt"]},
        "C/c_index.mat": index,
    }
    train, test = ({"file": "C/c_index.mat", "key": key} for key in ("c_train", "c_test"))
    return files, {
        "modalities": [
            modality("hsi", BANDS, {"file": "C/c_hsi.mat", "key": "c_hsi"}),
            modality("sar", 2, {"file": "C/c_sar.mat", "key": "c_sar"}),
        ],
        "ground_truth": {"parts": [{"file": "C/c_gt.mat", "key": "c_gt", "axes": "hw"}]},
        "official_split": official_fields(kind="index", train=train, test=test),
    }


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("layout", [trento_like, muufl_like, augsburg_like])
def test_a_release_is_fetched_extracted_verified_and_read(tmp_path: Path, layout: Layout, write: Writer) -> None:
    arrays = small_arrays()
    files, fields = layout(arrays)
    members = {path: write(tmp_path / "a.mat", values).read_bytes() for path, values in files.items()}
    content = zip_bytes(members | {"README.md": b"not named in the manifest"})
    with local_server() as server:
        source = plain_source(content, server.serve("/release.zip", content), file="release.zip")
        source["members"] = [{"path": path, "sha256": sha256(data)} for path, data in members.items()]
        manifest = small_manifest(tmp_path, sources=[source], **fields)
        scene = load_scene(manifest)
    second = "sar" if layout is augsburg_like else "lidar"
    assert list(scene.images) == ["hsi", second]
    np.testing.assert_array_equal(scene.images["hsi"], arrays["hsi"])
    np.testing.assert_array_equal(scene.images[second], arrays["lidar"])
    np.testing.assert_array_equal(scene.ground_truth, arrays["gt"])
    if layout is augsburg_like:
        np.testing.assert_array_equal(scene.official[0], np.flatnonzero(arrays["train"]))
    else:
        assert scene.official is None
    # The server has stopped: a second load needs no network.
    np.testing.assert_array_equal(load_scene(manifest).images["hsi"], arrays["hsi"])
