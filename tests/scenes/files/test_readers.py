"""Readers: every format gives the same scene, and every contradiction to the manifest is an error that says what."""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from helpers.small_release import (
    BANDS,
    CLASS_COUNTS,
    HEIGHT,
    WIDTH,
    local_server,
    manifest_fields,
    official_fields,
    sha256,
    small_arrays,
    small_manifest,
    zip_bytes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.files.formats import read_array, read_roi_text
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene

SIZE = (HEIGHT, WIDTH)


def write_matlab73(path: Path, values: dict[str, Any]) -> Path:
    """A MATLAB v7.3 file: arrays with reversed axes, structs as groups, lists of structs and cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            _put(file, file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def _put(file: h5py.File, parent: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, dict):
        group = parent.create_group(name)
        for key, item in value.items():
            _put(file, group, key, item)
    elif isinstance(value, list) and isinstance(value[0], dict):  # list of structs: a group of lists of references
        group = parent.create_group(name)
        for key in value[0]:
            _references(file, group, key, [item[key] for item in value])
    elif isinstance(value, list):
        _references(file, parent, name, value)
    else:
        parent.create_dataset(name, data=np.asarray(value).T)


def _references(file: h5py.File, parent: h5py.Group, name: str, items: list[Any]) -> None:
    store = file.require_group("#refs#")
    references = []
    for item in items:
        key = f"r{len(store)}"
        store.create_dataset(key, data=np.asarray(item).T)
        references.append(store[key].ref)
    parent.create_dataset(name, data=np.array(references, dtype=h5py.ref_dtype).reshape(-1, 1), dtype=h5py.ref_dtype)


def write_matlab5(path: Path, values: dict[str, Any]) -> Path:
    """A MATLAB v5 file; a list of dicts becomes a struct array."""
    scipy.io.savemat(path, {name: _struct(value) for name, value in values.items()}, do_compression=True)
    return path


def _struct(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _struct(item) for key, item in value.items()}
    if isinstance(value, list) and isinstance(value[0], dict):
        names = list(value[0])
        array = np.empty((1, len(value)), dtype=[(name, object) for name in names])
        for i, item in enumerate(value):
            array[0, i] = tuple(item[name] for name in names)
        return array
    if isinstance(value, list):
        cell = np.empty((1, len(value)), dtype=object)
        for i, item in enumerate(value):
            cell[0, i] = item
        return cell
    return value


WRITERS: list[Callable[[Path, dict[str, Any]], Path]] = [write_matlab5, write_matlab73]


def scene_from(tmp_path: Path, arrays: dict[str, np.ndarray] | None = None, **changes: Any) -> Scene:
    """Read the small scene out of an .npz file with these arrays."""
    folder = tmp_path / "scene"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "scene.npz", **(small_arrays() | (arrays or {})))
    return read_scene(small_manifest(tmp_path, **changes), folder)


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
    scene = scene_from(tmp_path, official_split=official_fields())
    check_scene(scene)
    arrays = small_arrays()
    assert scene.official is not None
    for pixels, name in zip(scene.official, ("train", "test"), strict=True):
        np.testing.assert_array_equal(pixels, np.flatnonzero(arrays[name]))
        assert pixels.dtype == np.int64


@pytest.mark.parametrize("write", WRITERS)
def test_matlab_scene_in_structs(tmp_path: Path, write: Callable[[Path, dict[str, Any]], Path]) -> None:
    """The layout of the MUUFL release: one struct, a list of LiDAR returns, -1 for unlabelled."""
    arrays = small_arrays()
    labels = np.where(arrays["gt"] == 0, -1, arrays["gt"].astype(np.int16))
    returns = [{"z": arrays["lidar"]}, {"z": arrays["lidar"] * 2}]
    struct = {"Data": arrays["hsi"].astype(np.float64), "Lidar": returns, "sceneLabels": {"labels": labels}}
    write(tmp_path / "scene.mat", {"hsi": struct, "other": np.eye(3)})
    ref = {"file": "scene.mat"}
    manifest = small_manifest(
        tmp_path,
        modalities=[
            {"name": "hsi", "sensor": "none", "bands": BANDS, "parts": [ref | {"key": "hsi.Data"}]},
            {"name": "lidar", "sensor": "none", "bands": 2, "parts": [ref | {"key": "hsi.Lidar[0].z"}]},
        ],
        ground_truth={"unlabelled": -1, "parts": [ref | {"key": "hsi.sceneLabels.labels", "axes": "hw"}]},
        sources=[ref],
    )
    check_scene(read_scene(manifest, tmp_path))
    second = read_array(tmp_path / "scene.mat", "hsi.Lidar[1].z", SIZE)
    np.testing.assert_array_equal(second, arrays["lidar"] * 2)


@pytest.mark.parametrize("write", WRITERS)
def test_matlab_keys(tmp_path: Path, write: Callable[[Path, dict[str, Any]], Path]) -> None:
    values = {
        "cube": small_arrays()["hsi"],
        "cell": [np.eye(2), np.eye(3)],
        "one": {"z": np.eye(4)},
        "many": [{"z": np.eye(5)}, {"z": np.eye(6)}],
    }
    path = write(tmp_path / "file.mat", values)
    np.testing.assert_array_equal(read_array(path, "cube", SIZE), values["cube"])
    np.testing.assert_array_equal(read_array(path, "cell[1]", SIZE), np.eye(3))
    np.testing.assert_array_equal(read_array(path, "one.z", SIZE), np.eye(4))
    np.testing.assert_array_equal(read_array(path, "one[0].z", SIZE), np.eye(4))
    np.testing.assert_array_equal(read_array(path, "many[1].z", SIZE), np.eye(6))
    for key, message in {
        "cub": "there is no 'cub'; present: cell, cube, many, one",
        "one.y": "there is no 'y'; present: z",
        "cube.y": "there is no 'y'; present: nothing",
        "many[2].z": r"position \[2\] is outside a list of 2",
        "one[1].z": r"position \[1\] is outside a list of 1",
        "cell[7]": r"position \[7\] is outside a list of 2",
        "many.z": r"add \[0\]",
        "one": "is a struct with z; name a numeric field",
        "cell": "name a numeric field",
        "many[0]": "name a numeric field",
        "a b": "is not a variable name",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            read_array(path, key, SIZE)
        assert "\n" not in str(error.value)


def test_text_is_no_array(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "text.mat", {"name": "Trento"})
    with pytest.raises(DataError, match="expected real numbers"):
        read_array(tmp_path / "text.mat", "name", SIZE)
    np.savez(tmp_path / "complex.npz", z=np.ones(3, dtype=complex))
    with pytest.raises(DataError, match="holds complex128"):
        read_array(tmp_path / "complex.npz", "z", SIZE)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple), kind=st.sampled_from(["u1", "i2", "f4", "f8"])
)
def test_every_format_gives_the_same_array(tmp_path_factory: pytest.TempPathFactory, shape: Any, kind: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, size=shape).astype(kind)
    folder = tmp_path_factory.mktemp("formats")
    np.save(folder / "a.npy", array)
    np.savez_compressed(folder / "a.npz", x=array)
    write_matlab5(folder / "five.mat", {"x": array})
    write_matlab73(folder / "seven.mat", {"x": array})
    read = [read_array(folder / name, "x", SIZE) for name in ("a.npy", "a.npz", "five.mat", "seven.mat")]
    for other in read:
        np.testing.assert_array_equal(other, array)


@pytest.mark.parametrize("name", ["a.mat", "a.npz", "a.npy", "a.tif"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>sign in</html>" * 50, b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM\x0f\x00"]
)
def test_broken_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_array(tmp_path / name, "x", SIZE)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["five.mat", "seven.mat", "a.npz", "a.npy", "a.tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    array = np.random.default_rng(0).normal(size=(30, 20, 10)).astype(np.float32)
    path = tmp_path / name
    if name == "five.mat":
        write_matlab5(path, {"x": array})
    elif name == "seven.mat":
        write_matlab73(path, {"x": array})
    elif name == "a.npz":
        np.savez(path, x=array)
    elif name == "a.npy":
        np.save(path, array)
    else:
        write_geotiff(path, array)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="cannot be read"):
        read_array(path, "x", SIZE)


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2]))
    for name in ("a.npz", "a.npy", "b.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            read_array(tmp_path / name, "x", SIZE)


def test_absent_file_and_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is absent"):
        read_array(tmp_path / "a.mat", "x", SIZE)
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ConfigError, match=r"format '\.csv' is not known; use \.mat"):
        read_array(tmp_path / "a.csv", None, SIZE)


@pytest.mark.parametrize("axes", ["hwc", "chw", "whc", "cwh"])
def test_axes_are_turned(tmp_path: Path, axes: str) -> None:
    turned = small_arrays()["hsi"].transpose(["hwc".index(axis) for axis in axes])
    modalities = manifest_fields()["modalities"]
    modalities[0]["parts"][0]["axes"] = axes
    check_scene(scene_from(tmp_path, {"hsi": turned}, modalities=modalities))


@pytest.mark.parametrize(
    ("name", "order", "fix"),
    [("hsi", (2, 0, 1), "set axes: chw"), ("hsi", (1, 0, 2), "set axes: whc"), ("gt", (1, 0), "set axes: wh")],
)
def test_turned_axes_name_the_setting_that_fits(tmp_path: Path, name: str, order: tuple[int, ...], fix: str) -> None:
    with pytest.raises(DataError, match=fix) as error:
        scene_from(tmp_path, {name: small_arrays()[name].transpose(order)})
    assert "has shape" in str(error.value)


def test_two_dimensional_lidar_names_its_axes(tmp_path: Path) -> None:
    modalities = manifest_fields()["modalities"]
    modalities[1]["bands"] = 1
    flat = small_arrays()["lidar"][:, :, 0]
    with pytest.raises(DataError, match="set axes: hw"):
        scene_from(tmp_path, {"lidar": flat}, modalities=modalities)
    modalities[1]["parts"][0]["axes"] = "hw"
    assert scene_from(tmp_path, {"lidar": flat}, modalities=modalities).images["lidar"].shape == (*SIZE, 1)


def test_parts_are_stacked_in_order(tmp_path: Path) -> None:
    arrays = small_arrays()
    parts = [{"file": "scene.npz", "key": "a", "axes": "hw"}, {"file": "scene.npz", "key": "b"}]
    modalities = manifest_fields()["modalities"]
    modalities[0]["parts"] = parts
    split = {"a": arrays["hsi"][:, :, 0], "b": arrays["hsi"][:, :, 1:]}
    check_scene(scene_from(tmp_path, split, modalities=modalities))
    for wrong, total in ((arrays["hsi"][:, :, 2:], 3), (arrays["hsi"], 5)):
        with pytest.raises(DataError, match=f"have {total} channels together, expected bands: 4"):
            scene_from(tmp_path, split | {"b": wrong}, modalities=modalities)


def spoiled(name: str, place: tuple[int, ...], value: float, dtype: str | None = None) -> dict[str, np.ndarray]:
    array = small_arrays()[name].copy()
    array = array.astype(dtype) if dtype else array
    array[place] = value
    return {name: array}


def constant_band() -> dict[str, np.ndarray]:
    image = small_arrays()["hsi"].copy()
    image[:, :, 2] = 7.5
    return {"hsi": image}


CONTRADICTIONS: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "nan": (spoiled("hsi", (1, 2, 3), np.nan), {}, r"hsi: NaN or infinite values in 1 of 4 bands \(band 3: 1"),
    "infinite": (spoiled("lidar", (slice(2), 2, 1), -np.inf), {}, r"lidar: NaN .* 1 of 2 bands \(band 1: 2"),
    "too large": (spoiled("hsi", (0, 0, 0), 1e300, "f8"), {}, r"band 0: 1"),
    "constant": (constant_band(), {}, r"band 2 is 7\.5 everywhere"),
    "other raster": (
        {"hsi": np.ones((5, 9, 4))},
        {},
        r"has shape 5x9x4 .*expected 6 rows x 9 columns x 4.*another raster",
    ),
    "other bands": ({"hsi": np.ones((6, 9, 5))}, {}, r"6x9x5.*x 4 channels; no order of axes fits"),
    "missing key": (
        {},
        {"ground_truth": {"parts": [{"file": "scene.npz", "key": "labels", "axes": "hw"}]}},
        r"there is no 'labels'; present: gt, hsi, lidar, test, train",
    ),
    "unknown class": (spoiled("gt", (0, slice(2)), 9), {}, r"unknown class 9 \(2 pixels\), expected 1\.\.3 and 0"),
    "negative": (spoiled("gt", (0, 0), -1, "i2"), {}, r"unknown class -1 \(1 pixels\)"),
    "fraction": (spoiled("gt", (0, 0), 0.5, "f4"), {}, "not whole numbers"),
    "label nan": (spoiled("gt", (0, 0), np.nan, "f4"), {}, "not whole numbers"),
    "label infinite": (spoiled("gt", (0, 0), np.inf, "f4"), {}, "not whole numbers"),
    "counts": (spoiled("gt", (0, 0), 2), {}, "Road has 10 pixels, expected 9; it is another version"),
    "unlabelled": (
        {},
        {"ground_truth": {"unlabelled": -1} | manifest_fields()["ground_truth"]},
        r"unknown class 0 \(27 pixels\), expected 1\.\.3 and -1",
    ),
    "overlap": (
        {"test": small_arrays()["gt"]},
        {"official_split": official_fields(test_counts=None)},
        "6 pixels are in the official train and the official test",
    ),
    "outside": (
        spoiled("train", (0, 0), 1),
        {"official_split": official_fields()},
        "1 pixels disagree with the ground truth",
    ),
    "other class": (
        spoiled("train", (0, 2), 3),
        {"official_split": official_fields()},
        "1 pixels disagree with the ground truth",
    ),
    "official counts": (
        {},
        {"official_split": official_fields(train_counts=[3, 2, 2])},
        r"\[train\]: Water has 1 pixels, expected 2",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradiction_is_an_error_that_says_what_was_found(tmp_path: Path, case: str) -> None:
    arrays, changes, message = CONTRADICTIONS[case]
    with pytest.raises(DataError, match=message) as error:
        scene_from(tmp_path, arrays, **changes)
    assert "\n" not in str(error.value)
    assert "small-r1" in str(error.value) or str(tmp_path) in str(error.value)


def test_many_faults_are_not_all_listed(tmp_path: Path) -> None:
    image = np.full((*SIZE, BANDS), np.nan)
    modalities = manifest_fields()["modalities"]
    modalities[0]["bands"] = 40
    with pytest.raises(DataError, match=r"in 40 of 40 bands .*band 4: 54, \.\.\., counted"):
        scene_from(tmp_path, {"hsi": np.tile(image, 10)}, modalities=modalities)


def test_masks_of_ones_are_official_parts_too(tmp_path: Path) -> None:
    arrays = {name: (small_arrays()[name] > 0).astype(bool) for name in ("train", "test")}
    scene = scene_from(tmp_path, arrays, official_split=official_fields())
    assert scene.official is not None
    assert [len(part) for part in scene.official] == [6, sum(CLASS_COUNTS) - 6]


def test_ground_truth_joined_from_train_and_test(tmp_path: Path) -> None:
    parts = [{"file": "scene.npz", "key": key, "axes": "hw"} for key in ("train", "test")]
    check_scene(scene_from(tmp_path, ground_truth={"parts": parts}))
    test = small_arrays()["test"].copy()
    test[0, 2] = 3  # class 1 in the train part
    with pytest.raises(DataError, match=r"\[test\]: 1 pixels have another class in the other parts"):
        scene_from(tmp_path, {"test": test}, ground_truth={"parts": parts})


def positions(name: str, base: int) -> np.ndarray:
    rows = np.argwhere(small_arrays()[name]) + base
    return np.random.default_rng(3).permutation(rows).astype(np.int32)


def index_scene(tmp_path: Path, base: int, **arrays: np.ndarray) -> Scene:
    lists = {"tr": positions("train", 0), "te": positions("test", 0)} | arrays
    train, test = ({"file": "scene.npz", "key": key} for key in ("tr", "te"))
    split = official_fields(kind="index", index_base=base, train=train, test=test)
    return scene_from(tmp_path, lists, official_split=split)


@pytest.mark.parametrize("base", [0, 1])
def test_index_lists_in_both_bases(tmp_path: Path, base: int) -> None:
    scene = index_scene(tmp_path, base, tr=positions("train", base), te=positions("test", base))
    assert scene.official is not None
    for pixels, name in zip(scene.official, ("train", "test"), strict=True):
        np.testing.assert_array_equal(pixels, np.flatnonzero(small_arrays()[name]))


@pytest.mark.parametrize("declared", [0, 1])
def test_wrong_base_names_the_right_one(tmp_path: Path, declared: int) -> None:
    other = 1 - declared
    with pytest.raises(DataError, match=f"counted from {declared}, .* fits with index_base: {other}, so set that"):
        index_scene(tmp_path, declared, tr=positions("train", other), te=positions("test", other))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (positions("train", 0)[:, ::-1], "it fits under neither base"),
        (np.repeat(positions("train", 0)[:3], 2, axis=0), "3 positions are given twice; it fits under neither"),
        (positions("train", 0).T, r"is int32 2x6, expected whole numbers Nx2"),
        (positions("train", 0) + 0.5, r"expected whole numbers Nx2"),
        (np.full((6, 2), np.inf), r"expected whole numbers Nx2"),
        (positions("train", 0)[1:], "expected"),
        (positions("train", 100), "6 of 6 positions lie outside the raster"),
        (np.array([[0, 0]] * 6), "6 of 6 positions are unlabelled"),
    ],
)
def test_faulty_index_lists(tmp_path: Path, rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        index_scene(tmp_path, 0, tr=rows)


def write_geotiff(path: Path, image: np.ndarray) -> None:
    """Write (height, width, bands) as GeoTIFF."""
    rasterio = pytest.importorskip("rasterio", reason="GeoTIFF is the optional extra geo")
    profile = {"driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": image.shape[2]}
    transform = rasterio.Affine(2.5, 0, 0, 0, -2.5, 0)
    with rasterio.open(path, "w", dtype=image.dtype, transform=transform, crs="EPSG:32615", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))


def roi_text(labels: np.ndarray, *, inline: bool) -> str:
    """ENVI's text export of regions; ``inline`` repeats the description before each region as some versions do."""
    names = [
        f"; ROI name: class_{k}\n; ROI rgb value: {{0, {k}, 0}}\n; ROI npts: {np.count_nonzero(labels == k)}\n"
        for k in range(1, labels.max() + 1)
    ]
    columns = ";   ID    X    Y       Map X       Map Y         Lat         Lon     B1\n"
    text = f"; ENVI Output of ROIs (4.8) [Mon Apr  1 2013]\n; Number of ROIs: {len(names)}\n"
    text += f"; File Dimension: {labels.shape[1]} x {labels.shape[0]}\n;\n"
    text += "" if inline else "".join(names) + columns
    for k, name in enumerate(names, start=1):
        text += name + columns if inline else ""
        for i, (row, column) in enumerate(np.argwhere(labels == k), start=1):
            text += f"{i:6d} {column + 1:5d} {row + 1:5d}   271460.75  3290891.25   29.72   -95.36  512\n"
        text += "\n"
    return text


@pytest.mark.parametrize("inline", [True, False])
def test_original_houston_layout(tmp_path: Path, inline: bool) -> None:
    """GeoTIFF rasters, train regions inside the archive folder, test regions beside it."""
    arrays = small_arrays()
    (tmp_path / "2013_DFTC").mkdir()
    write_geotiff(tmp_path / "2013_DFTC/CASI.tif", arrays["hsi"])
    write_geotiff(tmp_path / "2013_DFTC/LiDAR.tif", arrays["lidar"])
    (tmp_path / "2013_DFTC/TR.txt").write_text(roi_text(arrays["train"], inline=inline))
    (tmp_path / "VA.txt").write_text(roi_text(arrays["test"], inline=inline))
    train, test = {"file": "2013_DFTC/TR.txt", "axes": "hw"}, {"file": "VA.txt", "axes": "hw"}
    rasters = {"hsi": ("2013_DFTC/CASI.tif", BANDS), "lidar": ("2013_DFTC/LiDAR.tif", 2)}
    manifest = small_manifest(
        tmp_path,
        modalities=[
            {"name": name, "sensor": "none", "bands": bands, "parts": [{"file": file, "axes": "chw"}]}
            for name, (file, bands) in rasters.items()
        ],
        ground_truth={"parts": [train, test]},
        official_split=official_fields(train=train, test=test),
        sources=[
            {"file": file} for file in ("2013_DFTC/CASI.tif", "2013_DFTC/LiDAR.tif", "2013_DFTC/TR.txt", "VA.txt")
        ],
    )
    scene = read_scene(manifest, tmp_path)
    check_scene(scene)
    assert scene.official is not None
    np.testing.assert_array_equal(scene.official[0], np.flatnonzero(arrays["train"]))


def test_empty_region_keeps_its_number(tmp_path: Path) -> None:
    labels = np.where(small_arrays()["gt"] == 2, 0, small_arrays()["gt"])
    (tmp_path / "a.txt").write_text(roi_text(labels, inline=True))
    np.testing.assert_array_equal(read_roi_text(tmp_path / "a.txt", SIZE), labels)


def test_regions_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2 1\n2 3 1\n\n1 1 2\n")
    raster = read_roi_text(tmp_path / "a.txt", SIZE)
    assert {tuple(place): raster[tuple(place)] for place in np.argwhere(raster)} == {(0, 1): 1, (0, 2): 1, (1, 0): 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 10 1\n", "line 1 names column 10, row 1; expected .* inside 6 rows x 9 columns"),
        ("1 0 1\n", "names column 0, row 1"),
        ("2 1 1\n", "expected a region that starts with ID 1"),
        ("; ROI npts: 1\n1 x y\n", "line 2 is '1 x y', expected whole numbers"),
        ("1 2\n", "expected whole numbers"),
        ("; ROI npts: 3\n1 1 1\n2 2 1\n", r"holds regions of \[2\] points, its header declares \[3\]"),
        ("1 1 1\n\n1 1 1\n", "1 pixels of region 2 belong to region 1 too"),
        ("; nothing\n", "holds regions of"),
    ],
)
def test_faulty_regions(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_array(tmp_path / "a.txt", None, SIZE)


def test_regions_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_array(tmp_path / "a.txt", None, SIZE)


def test_geotiff_without_rasterio_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tif").write_bytes(b"any")
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "rasterio":
            raise ModuleNotFoundError("No module named 'rasterio'", name="rasterio")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'mmrs-bench\[geo\]'"):
        read_array(tmp_path / "a.tif", None, SIZE)


def trento_like(arrays: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    top = "Trento-0123abc"
    write_matlab5(folder / "hsi.mat", {"data": arrays["hsi"]})
    write_matlab5(folder / "lidar.mat", {"data": arrays["lidar"]})
    write_matlab5(folder / "gt.mat", {"mask_test": arrays["gt"]})
    names = {"hsi.mat": "Italy_hsi.mat", "lidar.mat": "Italy_lidar.mat", "gt.mat": "allgrd.mat"}
    members = {f"{top}/{there}": (folder / here).read_bytes() for here, there in names.items()}
    rasters = (("hsi", BANDS), ("lidar", 2))
    return members, {
        "modalities": [
            {
                "name": n,
                "sensor": "none",
                "bands": b,
                "parts": [{"file": f"{top}/Italy_{n}.mat", "key": "data"}],
            }
            for n, b in rasters
        ],
        "ground_truth": {"parts": [{"file": f"{top}/allgrd.mat", "key": "mask_test", "axes": "hw"}]},
    }


def muufl_like(arrays: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    labels = np.where(arrays["gt"] == 0, -1, arrays["gt"].astype(np.float64))
    struct = {
        "Data": arrays["hsi"],
        "Lidar": [{"x": np.eye(2), "z": arrays["lidar"]}, {"x": np.eye(2), "z": -arrays["lidar"]}],
        "sceneLabels": {"labels": labels, "Materials_Type": ["Grass", "Road", "Water"]},
        "info": {"wavelength": np.arange(4.0)},
    }
    write_matlab5(folder / "scene.mat", {"hsi": struct})
    ref = {"file": "MUUFLGulfport-0.1/Labels/scene.mat"}
    keys = (("hsi", BANDS, "hsi.Data"), ("lidar", 2, "hsi.Lidar[0].z"))
    return {ref["file"]: (folder / "scene.mat").read_bytes()}, {
        "modalities": [{"name": n, "sensor": "none", "bands": b, "parts": [ref | {"key": k}]} for n, b, k in keys],
        "ground_truth": {"unlabelled": -1, "parts": [ref | {"key": "hsi.sceneLabels.labels", "axes": "hw"}]},
    }


def augsburg_like(arrays: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    every = np.argwhere(np.ones(SIZE))
    index = {"c_train": positions("train", 0), "c_test": positions("test", 0), "c_all": every}
    files = {"hsi": {"c_hsi": (arrays["hsi"])}, "sar": {"c_sar": arrays["lidar"].astype(np.float64)}}
    files |= {"gt": {"c_gt": arrays["gt"]}, "index": index}
    members = {f"C/c_{n}.mat": write_matlab5(folder / f"{n}.mat", values).read_bytes() for n, values in files.items()}
    rasters = (("hsi", BANDS), ("sar", 2))
    return members, {
        "modalities": [
            {"name": n, "sensor": "none", "bands": b, "parts": [{"file": f"C/c_{n}.mat", "key": f"c_{n}"}]}
            for n, b in rasters
        ],
        "ground_truth": {"parts": [{"file": "C/c_gt.mat", "key": "c_gt", "axes": "hw"}]},
        "official_split": official_fields(
            kind="index",
            train={"file": "C/c_index.mat", "key": "c_train"},
            test={"file": "C/c_index.mat", "key": "c_test"},
        ),
    }


@pytest.mark.parametrize("layout", [trento_like, muufl_like, augsburg_like])
def test_from_address_to_scene(tmp_path: Path, layout: Callable[..., tuple[dict[str, bytes], dict[str, Any]]]) -> None:
    """A release laid out like the real one, fetched from a server, unpacked, verified and read."""
    arrays = small_arrays()
    members, fields = layout(arrays, tmp_path)
    content = zip_bytes(members | {"README.md": b"not named in the manifest"})
    with local_server() as server:
        source = {
            "file": "release.zip",
            "urls": [server.serve("/release.zip", content)],
            "sha256": sha256(content),
            "members": [{"path": path, "sha256": sha256(data)} for path, data in members.items()],
        }
        manifest: Manifest = small_manifest(tmp_path, sources=[source], **fields)
        scene = load_scene(manifest)
    second = "sar" if layout is augsburg_like else "lidar"
    assert list(scene.images) == ["hsi", second]
    np.testing.assert_array_equal(scene.images["hsi"], arrays["hsi"])
    np.testing.assert_array_equal(scene.images[second], arrays["lidar"])
    np.testing.assert_array_equal(scene.ground_truth, arrays["gt"])
    if layout is augsburg_like:
        assert scene.official is not None
        np.testing.assert_array_equal(scene.official[0], np.flatnonzero(arrays["train"]))
    else:
        assert scene.official is None
    # The server is gone by now: a second load needs no network.
    np.testing.assert_array_equal(load_scene(manifest).images["hsi"], arrays["hsi"])
