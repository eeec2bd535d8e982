"""Labels whose file has another encoding than the manifest states: the error names the one that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_release import manifest_fields, scene_of_arrays, small_arrays

from mmrs_bench.errors import DataError

GT = small_arrays()["gt"].astype(np.int64)
COLORS = np.array([[0, 0, 0], [0, 255, 0], [128, 128, 128], [0, 0, 255]], dtype=np.uint8)
STACK = [{"file": "scene.npz", "key": "gt", "axes": "hwc"}]
ENCODED = {
    name: {"ground_truth": manifest_fields()["ground_truth"] | {"encoding": name, "parts": STACK}}
    for name in ("rgb", "one-hot")
}
RGBA = np.dstack([COLORS[GT], np.full_like(GT, 255)])
SHAPES: dict[str, tuple[np.ndarray, dict[str, Any], list[str]]] = {
    "colours": (
        COLORS[GT],
        {},
        [
            "if it contains colours, set encoding: rgb and axes: hwc, or ",
            "if it has one channel per class, set encoding: one-hot and axes: hwc",
        ],
    ),
    "colours first": (COLORS[GT].transpose(2, 0, 1), {}, ["set encoding: rgb and axes: chw"]),
    "colours with alpha": (
        RGBA,
        {},
        [
            "if it contains colours, remove its alpha channel, and set encoding: rgb and axes: hwc, or ",
            "one for no label, set encoding: one-hot and axes: hwc, and ignore: to the channel for no label",
        ],
    ),
    "colours with alpha as rgb": (RGBA, ENCODED["rgb"], ["remove its alpha channel"]),
    "labels as rgb": (GT, ENCODED["rgb"], ["if it has one value per pixel, set encoding: labels and axes: hw"]),
    "labels as one-hot": (GT, ENCODED["one-hot"], ["set encoding: labels and axes: hw"]),
    "flattened colours": (COLORS[GT].reshape(-1, 3), ENCODED["rgb"], ["it is flattened, so reshape it in the file"]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_labels_in_another_encoding_name_the_one_that_fits(tmp_path: Path, case: str) -> None:
    labels, changes, advice = SHAPES[case]
    with pytest.raises(DataError, match=r"scene\.npz\[gt\]: has shape") as error:
        scene_of_arrays(tmp_path, {"gt": labels}, **changes)
    assert all(text in str(error.value) for text in advice)
    assert not any(text in str(error.value) for text in ("another raster", "in the manifest"))
