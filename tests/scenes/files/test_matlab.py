"""MATLAB files of both generations: keys reach struct fields and list items, and wrong keys are explained."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from helpers.matlab_files import WRITERS, Writer, write_matlab73
from helpers.rasters import element, opaque

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.formats import read_array

SIZE = (6, 9)
VALUES: dict[str, Any] = {
    "cube": np.arange(24.0).reshape(2, 3, 4),
    "cell": [np.eye(2), np.eye(3)],
    "one": {"z": np.eye(4)},
    "many": [{"z": np.eye(5)}, {"z": np.eye(6)}],
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("cube", VALUES["cube"]),
        ("cell[1]", np.eye(3)),
        ("one.z", np.eye(4)),
        ("one[0].z", np.eye(4)),
        ("many[1].z", np.eye(6)),
    ],
)
def test_a_key_reaches_fields_and_list_items(tmp_path: Path, write: Writer, key: str, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(read_array(write(tmp_path / "file.mat", VALUES), key, SIZE).array, expected)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("cub", "there is no 'cub'; present: cell, cube, many, one"),
        ("one.y", "there is no 'y'; present: z"),
        ("cube.y", "there is no 'y'; present: nothing"),
        ("many[2].z", r"position \[2\] is outside a list of 2"),
        ("one[1].z", r"position \[1\] is outside a list of 1"),
        ("cell[7]", r"position \[7\] is outside a list of 2"),
        ("many.z", r"add \[0\]"),
        ("one", "is a struct with z; name a numeric field"),
        ("cell", "name a numeric field"),
        ("many[0]", "name a numeric field"),
        ("a b", "is not a variable name"),
    ],
)
def test_a_wrong_key_is_explained(tmp_path: Path, write: Writer, key: str, message: str) -> None:
    path = write(tmp_path / "file.mat", VALUES)
    with pytest.raises(DataError, match=message) as error:
        read_array(path, key, SIZE)
    assert str(error.value).startswith(f"{path}[{key}]: ")


RASTER = np.arange(54.0).reshape(SIZE)
HEADER = b"MATLAB 5.0 MAT-file".ljust(124)


def write_sparse73(path: Path, matrix: scipy.sparse.csc_matrix) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("x")
        group.attrs["MATLAB_sparse"] = np.uint64(matrix.shape[0])
        if matrix.nnz:
            group["data"], group["ir"] = matrix.data, matrix.indices.astype("u8")
        group["jc"] = matrix.indptr.astype("u8")
    return path


def write_sparse5(path: Path, matrix: scipy.sparse.csc_matrix) -> Path:
    scipy.io.savemat(path, {"x": matrix})
    return path


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("form", ["5", "5 compressed", "7.3", "4"])
def test_every_type_of_numbers_is_read(tmp_path: Path, dtype: str, form: str) -> None:
    array = (RASTER % 2 if dtype == "?" else RASTER - 27 * (dtype[0] != "u")).astype(dtype)
    path = tmp_path / "a.mat"
    if form == "7.3":
        write_matlab73(path, {"x": array})
    elif form == "4":
        if dtype in ("?", "i8", "u8", "i1", "u4"):
            pytest.skip("version 4 has no such type")
        scipy.io.savemat(path, {"x": array}, format="4")
    else:
        scipy.io.savemat(path, {"x": array}, do_compression="compressed" in form)
    np.testing.assert_array_equal(read_array(path, "x", SIZE).array, array)


@pytest.mark.parametrize("compressed", [False, True])
def test_big_endian_files_are_read(tmp_path: Path, compressed: bool) -> None:
    flags, shape = struct.pack(">II", 6, 0), struct.pack(">ii", *SIZE)
    values = element(9, RASTER.astype(">f8").tobytes(order="F"), ">")
    content = element(14, element(6, flags, ">") + element(5, shape, ">") + element(1, b"x", ">") + values, ">")
    if compressed:
        packed = zlib.compress(content)
        content = struct.pack(">II", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(HEADER + b"\x01\x00MI" + content)
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", "x", SIZE).array, RASTER)


@pytest.mark.parametrize("compressed", [False, True])
def test_strings_tables_and_dates_beside_an_array_do_no_harm(tmp_path: Path, compressed: bool) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": RASTER, "name": "Trento"}, do_compression=compressed)
    content = (tmp_path / "a.mat").read_bytes()
    before, after = opaque(b"names"), opaque(b"day", b"datetime")
    if compressed:
        before, after = (struct.pack("<II", 15, len(zlib.compress(e))) + zlib.compress(e) for e in (before, after))
    path = tmp_path / "b.mat"
    path.write_bytes(content[:128] + before + content[128:] + after)
    np.testing.assert_array_equal(read_array(path, "x", SIZE).array, RASTER)
    with pytest.raises(DataError, match="contains a string, table, date or function, expected real numbers"):
        read_array(path, "day", SIZE)
    with pytest.raises(DataError, match="there is no 'y'; present: day, name, names, x"):
        read_array(path, "y", SIZE)


@pytest.mark.parametrize("write", [write_sparse5, write_sparse73])
@pytest.mark.parametrize("dense", [RASTER * (RASTER % 3 == 0), np.zeros(SIZE)])
def test_sparse_matrices_are_rasters(tmp_path: Path, write: Any, dense: np.ndarray) -> None:
    path = write(tmp_path / "a.mat", scipy.sparse.csc_matrix(dense))
    np.testing.assert_array_equal(read_array(path, "x", SIZE).array, dense)
    np.testing.assert_array_equal(read_array(path, "x", SIZE[::-1]).array, dense)
    with pytest.raises(DataError, match="is a sparse matrix of 6x9, expected 600000x9"):
        read_array(path, "x", (600_000, 9))


def test_inconsistent_sparse_matrices_are_refused(tmp_path: Path) -> None:
    matrix = scipy.sparse.csc_matrix(RASTER)
    write_sparse73(tmp_path / "a.mat", matrix)
    for name, place, value in (("jc", 0, 1), ("jc", 3, 999), ("jc", -1, 999), ("ir", 2, 6)):
        path = tmp_path / "b.mat"
        path.write_bytes((tmp_path / "a.mat").read_bytes())
        with h5py.File(path, "r+") as file:
            file["x"][name][place if place >= 0 else 9] = value
        with pytest.raises(DataError, match="of the sparse matrix"):
            read_array(path, "x", SIZE)


@pytest.mark.parametrize("write", WRITERS)
def test_complex_numbers_are_refused(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(DataError, match="contains complex numbers, expected real numbers"):
        read_array(write(tmp_path / "a.mat", {"x": RASTER * 1j}), "x", SIZE)


def test_text_and_objects_are_not_arrays(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "text.mat", {"name": "Trento"})
    with pytest.raises(DataError, match="contains text, expected real numbers"):
        read_array(tmp_path / "text.mat", "name", SIZE)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        for name in ("char", "string"):
            file[name] = np.arange(6, dtype="u4")
            file[name].attrs["MATLAB_class"] = np.bytes_(name)
    for name, kind in (("char", "text"), ("string", "a string, table, date or function")):
        with pytest.raises(DataError, match=f"contains {kind}, expected real numbers"):
            read_array(tmp_path / "a.mat", name, SIZE)


def test_values_of_other_files_are_never_read(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = RASTER.T
    (tmp_path / "secret").write_bytes(bytes(range(54)))
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["external"] = h5py.ExternalLink("other.h5", "/x")
        file["folder"] = h5py.ExternalLink("other.h5", "/")
        file["soft"] = h5py.SoftLink("/folder/x")
        file["loop"] = h5py.SoftLink("/loop")
        file.create_dataset("storage", shape=SIZE, dtype="u1", external=[(str(tmp_path / "secret"), 0, 54)])
        layout = h5py.VirtualLayout(SIZE[::-1], "f8")
        layout[:] = h5py.VirtualSource(str(other), "x", SIZE[::-1])
        file.create_virtual_dataset("virtual", layout)
        references = file.create_dataset("list", (1,), dtype=h5py.ref_dtype)
        references[0] = file["storage"].ref
        file["group/x"] = RASTER.T
        file["group/inside"] = h5py.SoftLink("x")
        file["inside"] = h5py.SoftLink("/group/x")
    for key in ("external", "folder.x", "soft", "storage", "virtual", "list[0]"):
        with pytest.raises(DataError, match="another file, which is not followed"):
            read_array(tmp_path / "a.mat", key, SIZE)
    with pytest.raises(DataError, match="leads to itself"):
        read_array(tmp_path / "a.mat", "loop", SIZE)
    for key in ("inside", "group.inside"):
        np.testing.assert_array_equal(read_array(tmp_path / "a.mat", key, SIZE).array, RASTER)


def test_declared_sizes_are_compared_with_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("x", shape=(1 << 40,), dtype="u1", chunks=(1 << 20,))
    with pytest.raises(DataError, match="it declares 1,099,511,627,776 bytes of values, but contains"):
        read_array(tmp_path / "a.mat", "x", SIZE)
    shape = struct.pack("<ii", 1 << 30, 1 << 30)
    content = element(6, struct.pack("<II", 6, 0)) + element(5, shape) + element(1, b"x") + element(9, bytes(8))
    (tmp_path / "b.mat").write_bytes(HEADER + b"\x00\x01IM" + element(14, content))
    with pytest.raises(DataError, match="it declares 1152921504606846976 values and contains 1"):
        read_array(tmp_path / "b.mat", "x", SIZE)
    packed = zlib.compress(struct.pack("<II", 14, 0xFFFFFFF8) + content)
    (tmp_path / "c.mat").write_bytes(HEADER + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match="it declares 4,294,967,288 bytes of values"):
        read_array(tmp_path / "c.mat", "x", SIZE)


def test_a_damaged_compressed_variable_is_found_by_its_check_sum(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": RASTER}, do_compression=True)
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_array(tmp_path / "a.mat", "x", SIZE)


def test_two_variables_of_one_name_are_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": RASTER})
    content = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(content + content[128:])
    with pytest.raises(DataError, match="contains 2 variables of this name"):
        read_array(tmp_path / "a.mat", "x", SIZE)
