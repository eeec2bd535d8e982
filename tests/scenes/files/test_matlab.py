"""MATLAB files of both generations: keys reach struct fields and list items, and wrong keys are explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from helpers.matlab_files import WRITERS, Writer

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
    assert "\n" not in str(error.value)


def test_text_is_not_an_array(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "text.mat", {"name": "Trento"})
    with pytest.raises(DataError, match="expected real numbers"):
        read_array(tmp_path / "text.mat", "name", SIZE)
