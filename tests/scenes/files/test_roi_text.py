"""ENVI regions of interest exported as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_release import HEIGHT, WIDTH, roi_text, small_arrays

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.formats import read_array

SIZE = (HEIGHT, WIDTH)


def read(tmp_path: Path, text: str | bytes) -> np.ndarray:
    path = tmp_path / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_array(path, None, SIZE).array


def test_an_empty_region_keeps_its_number(tmp_path: Path) -> None:
    labels = np.where(small_arrays()["gt"] == 2, 0, small_arrays()["gt"])
    np.testing.assert_array_equal(read(tmp_path, roi_text(labels, inline=True)), labels)


def test_regions_without_a_header_are_numbered_in_order(tmp_path: Path) -> None:
    raster = read(tmp_path, "1 2 1\n2 3 1\n\n1 1 2\n")
    assert {tuple(place): raster[tuple(place)] for place in np.argwhere(raster)} == {(0, 1): 1, (0, 2): 1, (1, 0): 2}


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff; ROI name: Straße\n".encode(),
        "; ROI name: Straße\n".encode("latin-1"),
        "; ROI name: Straße\r\n".encode(),
        b"; ROI name: Stra\xdfe\x85 and so on\r\n",
        b"",
    ],
)
def test_encodings_of_comments(tmp_path: Path, content: bytes) -> None:
    raster = read(tmp_path, content + b"; ROI npts: 2\n1 2 1 7.5\n2 3 1 7.5\n")
    assert np.argwhere(raster).tolist() == [[0, 1], [0, 2]]
    assert np.argwhere(read(tmp_path, "; Straße\n1 2 1\n".encode("utf-16"))).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 10 1\n", "line 1 has column 10, row 1, outside 6 rows x 9 columns"),
        ("1 0 1\n", "has column 0, row 1"),
        ("2 1 1\n", "has ID 2, expected a region that starts with ID 1"),
        ("; ROI npts: 1\n1 x y\n", "line 2 is '1 x y', expected integers"),
        ("1 2\n", "expected integers"),
        ("1 2 1_0\n", "expected integers"),
        ("1 2 ١\n", "expected integers"),
        ("1 2 \x1b[31m\n", r"'1 2 \\x1b\[31m', expected integers"),
        ("; ROI npts: 3\n1 1 1\n2 2 1\n", r"contains regions of \[2\] points, its header declares \[3\]"),
        ("1 1 1\n\n1 1 1\n", "1 pixels of region 2 also belong to region 1"),
        ("; nothing\n", "contains regions of"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'a.txt'}: ")
