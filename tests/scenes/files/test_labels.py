"""Labels as files have them: other values of classes, several values without a label, encodings, masks, lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_release import (
    HEIGHT,
    WIDTH,
    manifest_fields,
    official_fields,
    scene_of_arrays,
    small_arrays,
    small_manifest,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import DataError, ManifestError
from mmrs_bench.scenes.scene import Scene

GT = small_arrays()["gt"].astype(np.int64)
TRAIN, TEST = (small_arrays()[name].astype(np.int64) for name in ("train", "test"))
COLORS = np.array([[0, 0, 0], [0, 255, 0], [128, 128, 128], [0, 0, 255]], dtype=np.uint8)
LISTS = {name: {"file": "scene.npz", "key": name} for name in ("tr", "te")}


def truth(**changes: Any) -> dict[str, Any]:
    return manifest_fields()["ground_truth"] | changes


def classes(*values: Any) -> list[dict[str, Any]]:
    """The classes with these values in the files."""
    return [fields | {"values": list(of)} for fields, of in zip(manifest_fields()["classes"], values, strict=True)]


def values(*of: float, dtype: str = "f4") -> dict[str, np.ndarray]:
    """The ground truth with these values for no label and the classes."""
    return {"gt": np.array(of, dtype=dtype)[GT]}


def one_hot(labels: np.ndarray, count: int = 4) -> np.ndarray:
    """A stack of the classes without (h, w, 3) or with a channel for no label (h, w, 4)."""
    return np.eye(4, dtype=np.uint8)[labels][:, :, 4 - count :]


def ignoring(array: np.ndarray, *others: float) -> dict[str, np.ndarray]:
    """A float ground truth in which some pixels without a label have other values."""
    changed = array.astype(np.float64)
    for (row, column), value in zip(np.argwhere(array == 0), others, strict=False):
        changed[row, column] = value
    return {"gt": changed}


STACK = [{"file": "scene.npz", "key": "gt", "axes": "hwc"}]
READ: dict[str, tuple[dict[str, np.ndarray], dict[str, Any]]] = {
    "0..2 with 255": (
        values(255, 0, 1, 2, dtype="u1"),
        {"classes": classes([0], [1], [2]), "ground_truth": truth(ignore=[255])},
    ),
    "0..2, unlabelled 255": (
        values(255, 0, 1, 2, dtype="u1"),
        {"classes": classes([0], [1], [2]), "ground_truth": truth(unlabelled=255)},
    ),
    "1, 3, 7": (values(0, 1, 3, 7, dtype="i2"), {"classes": classes([1], [3], [7])}),
    "several values of a class": (
        {"gt": np.where((GT == 2) & (np.indices(GT.shape)[1] % 2 == 0), 9, GT)},
        {"classes": classes([1], [2, 9], [3])},
    ),
    "NaN": (values(np.nan, 1, 2, 3), {"ground_truth": truth(unlabelled=float("nan"))}),
    "NaN in the list": (values(np.nan, 1, 2, 3), {"ground_truth": truth(ignore=[float("nan")])}),
    "NaN as a text": (values(np.nan, 1, 2, 3), {"ground_truth": truth(ignore=["nan"])}),
    "NaN, 0, 255, -1": (ignoring(GT, np.nan, 255, -1), {"ground_truth": truth(ignore=[float("nan"), 0, 255, -1])}),
    "fractions": (values(0, 0.5, 1.5, 2.5), {"classes": classes([0.5], [1.5], [2.5])}),
    "one-hot": ({"gt": one_hot(GT, 3)}, {"ground_truth": truth(encoding="one-hot", parts=STACK)}),
    "one-hot of 255": ({"gt": one_hot(GT, 3) * 255}, {"ground_truth": truth(encoding="one-hot", parts=STACK)}),
    "one-hot of booleans": ({"gt": one_hot(GT, 3) > 0}, {"ground_truth": truth(encoding="one-hot", parts=STACK)}),
    "one-hot with a channel for no label": (
        {"gt": one_hot(GT).astype("f4")},
        {"ground_truth": truth(encoding="one-hot", ignore=[0], parts=STACK), "classes": classes([1], [2], [3])},
    ),
    "rgb": ({"gt": COLORS[GT]}, {"ground_truth": truth(encoding="rgb", parts=STACK)}),
    "rgb in channels first": (
        {"gt": COLORS[GT].transpose(2, 0, 1)},
        {"ground_truth": truth(encoding="rgb", parts=[STACK[0] | {"axes": "chw"}])},
    ),
    "rgb of other colours": (
        {"gt": 255 - COLORS[GT]},
        {
            "ground_truth": truth(encoding="rgb", unlabelled="#FFFFFF", parts=STACK),
            "classes": classes(["#ff00ff"], ["#7F7F7F"], ["#ffff00"]),
        },
    ),
}


@pytest.mark.parametrize("case", READ)
def test_the_manifest_maps_values_of_files_to_classes(tmp_path: Path, case: str) -> None:
    arrays, changes = READ[case]
    np.testing.assert_array_equal(scene_of_arrays(tmp_path, arrays, **changes).ground_truth, GT)


@given(st.permutations(range(-3, 300, 37)), st.sampled_from(["i2", "f4", "f8", "i8"]))
@settings(max_examples=20, deadline=None, database=None, derandomize=True)
def test_any_numbers_may_mean_classes(tmp_path_factory: pytest.TempPathFactory, numbers: list[int], dtype: str) -> None:
    unlabelled, *of_classes = numbers[:4]
    read = scene_of_arrays(
        tmp_path_factory.mktemp("any"),
        values(*numbers[:4], dtype=dtype),
        classes=classes(*([value] for value in of_classes)),
        ground_truth=truth(unlabelled=unlabelled),
    )
    np.testing.assert_array_equal(read.ground_truth, GT)


UNCOUNTED = [{name: value for name, value in c.items() if name != "count"} for c in manifest_fields()["classes"]]
ENCODED = {name: {"ground_truth": truth(encoding=name, parts=STACK)} for name in ("rgb", "one-hot")}
REFUSED: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "counts name the classes": (
        values(255, 2, 0, 1, dtype="u1"),
        {},
        r"unknown values 255 \(27 pixels\), expected \[1, 2, 3\] .*would fit: classes Grass: values: \[2\], "
        r"Road: values: \[0\], Water: values: \[1\]; set ground_truth\.ignore: \[255\]",
    ),
    "ascending without counts": (
        values(0, 1, 3, 7),
        {"classes": UNCOUNTED},
        r"values 7 \(6 pixels\), .*: classes Road: values: \[3\], Water: values: \[7\]$",
    ),
    "from 0 with a background": (
        values(255, 0, 1, 2, dtype="u1"),
        {"classes": UNCOUNTED},
        r"Grass: values: \[0\], Road: values: \[1\], Water: values: \[2\]; set ground_truth\.ignore: \[255\]$",
    ),
    "from 0 with a background of minus one": (
        values(-1, 0, 1, 2),
        {"classes": UNCOUNTED},
        r"Grass: values: \[0\], Road: values: \[1\], Water: values: \[2\]; set ground_truth\.ignore: \[-1\]$",
    ),
    "declared value of no label is a class": (
        values(255, 0, 1, 2, dtype="u1"),
        {"ground_truth": truth(unlabelled=0)},
        r"classes Grass: values: \[0\], .*ignore: \[255\]; remove ground_truth\.unlabelled",
    ),
    "NaN and minus one": (
        ignoring(GT, np.nan, -1),
        {},
        r"set ground_truth\.ignore: \[-1, \.nan\] if they mean no label",
    ),
    "colour": (
        {"gt": np.where(GT[:, :, None] == 2, 7, COLORS[GT])},
        ENCODED["rgb"],
        r'unknown values "#070707" \(9 pixels\), expected \["#00ff00", "#808080", "#0000ff"\] .* and \["#000000"\] for',
    ),
    "no colours": ({"gt": COLORS[GT] / 255}, ENCODED["rgb"], "is not an RGB raster: expected integers from 0 to 255"),
    "colour NaN": ({"gt": np.full((HEIGHT, WIDTH, 3), np.nan)}, ENCODED["rgb"], "is not an RGB raster"),
    "two set channels": (
        {"gt": np.ones((HEIGHT, WIDTH, 3))},
        ENCODED["one-hot"],
        "is not a one-hot stack: 54 pixels have several channels set",
    ),
    "probabilities": (
        {"gt": one_hot(GT, 3) * 0.5 + 0.25},
        ENCODED["one-hot"],
        r"is not a one-hot stack: it contains 0\.25, 0\.75, expected 0 and one other",
    ),
    "one-hot NaN": ({"gt": np.full((HEIGHT, WIDTH, 3), np.nan)}, ENCODED["one-hot"], r"contains \.nan, expected"),
    "channels": ({"gt": one_hot(GT)}, ENCODED["one-hot"], "6x9x4 with axes hwc, expected .* 3 channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unknown_values_are_counted_and_fitting_lines_suggested(tmp_path: Path, case: str) -> None:
    arrays, changes, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as error:
        scene_of_arrays(tmp_path, arrays, **changes)
    assert "scene.npz[gt]" in str(error.value)


def test_nan_in_a_mask_is_never_suggested_as_a_class(tmp_path: Path) -> None:
    masks = {name: np.where(array, 1, np.nan) for name, array in (("train", TRAIN), ("test", TEST))}
    with pytest.raises(DataError, match=r"unknown values \.nan .*; set official_split\.ignore: \[\.nan\]$"):
        scene_of_arrays(tmp_path, masks, official_split=official_fields())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": classes([1], [1], [3])}, "label value 1 means Grass and Road; each value has one meaning"),
        ({"ground_truth": truth(ignore=[3])}, "label value 3 means Water and no label"),
        ({"classes": classes(["nan"], [2], [3])}, r"label value \.nan means Grass; NaN can only mean no label"),
        ({"classes": classes(["#00ff00"], [2], [3])}, "label value #00ff00 of Grass is not a number"),
        ({"ground_truth": truth(encoding="rgb"), "classes": classes([1], [], [])}, "value 1 of Grass is not a colour"),
        ({"ground_truth": truth(encoding="one-hot"), "classes": classes([-1], [], [])}, "-1 of Grass is no channel"),
        ({"ground_truth": truth(ignore=["water"])}, "'water' is no label value; give a number, .nan, or a colour"),
        ({"ground_truth": truth(ignore=[True])}, "True is no label value"),
        ({"ground_truth": truth(ignore=[float("inf")])}, "inf is not a finite number"),
        ({"official_split": official_fields(columns=["row", "x"])}, r"columns is \[row, x\]; give \[row, column\]"),
        ({"official_split": official_fields(columns=["class"])}, r"columns is \[class\]"),
    ],
)
def test_contradicting_values_are_refused_in_the_manifest(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        small_manifest(tmp_path, **changes)


def test_a_default_keeps_the_fingerprint_and_a_value_changes_it(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        return small_manifest(tmp_path, **changes).fingerprint

    base, split = fingerprint(), fingerprint(official_split=official_fields())
    assert fingerprint(classes=classes([], [], []), ground_truth=truth(ignore=[], encoding="labels")) == base
    defaults = official_fields(columns=["row", "column"], order="c", ignore=None)
    assert fingerprint(official_split=defaults) == split
    changed = [
        fingerprint(classes=classes([1], [2], [7])),
        fingerprint(ground_truth=truth(ignore=[255])),
        fingerprint(ground_truth=truth(ignore=["nan"])),
        fingerprint(ground_truth=truth(encoding="rgb")),
        fingerprint(official_split=official_fields(columns=["x", "y"])),
        fingerprint(official_split=official_fields(order="matlab")),
        fingerprint(official_split=official_fields(ignore=[255])),
    ]
    assert len({base, split, *changed}) == len(changed) + 2


def masks(make: Any) -> dict[str, np.ndarray]:
    return {"train": make(TRAIN), "test": make(TEST)}


MINUS_ONE = (values(-1, 1, 2, 3, dtype="i2"), {"ground_truth": truth(unlabelled=-1)})
FROM_ZERO = READ["0..2 with 255"]
NAN_TRUTH = READ["NaN"]
PLAIN: tuple[dict[str, np.ndarray], dict[str, Any]] = ({}, {})
MASKS: dict[str, tuple[tuple[dict[str, np.ndarray], dict[str, Any]], Any, dict[str, Any]]] = {
    "0/1": (PLAIN, lambda part: (part > 0).astype("u1"), {}),
    "logical": (PLAIN, lambda part: part > 0, {}),
    "0/255": (PLAIN, lambda part: (part > 0) * 255, {}),
    "float": (PLAIN, lambda part: (part > 0) * 1.0, {}),
    "0/1 beside unlabelled -1": (MINUS_ONE, lambda part: (part > 0).astype("u1"), {}),
    "0/255 beside unlabelled -1": (MINUS_ONE, lambda part: (part > 0) * 255, {}),
    "classes, outside -1": (MINUS_ONE, lambda part: np.where(part > 0, part, -1), {}),
    "classes, outside 0, beside unlabelled -1": (MINUS_ONE, lambda part: part, {}),
    "0/1 beside classes from 0": (FROM_ZERO, lambda part: (part > 0).astype("u1"), {}),
    "0/255 beside a 255 without label": (FROM_ZERO, lambda part: (part > 0) * 255, {}),
    "classes from 0, outside 255": (FROM_ZERO, lambda part: np.where(part > 0, part - 1, 255), {}),
    "NaN outside": (NAN_TRUTH, lambda part: np.where(part > 0, part, np.nan), {}),
    "own list of values outside": (PLAIN, lambda part: np.where(part > 0, part, 99), {"ignore": [99]}),
    "1/2": (PLAIN, lambda part: np.where(part > 0, 2, 1), {"ignore": [1]}),
    "values of classes": (READ["1, 3, 7"], lambda part: np.array([0, 1, 3, 7])[part], {}),
}


def check_official(read: Scene) -> None:
    for pixels, part in zip(read.official, (TRAIN, TEST), strict=True):
        np.testing.assert_array_equal(pixels, np.flatnonzero(part))


@pytest.mark.parametrize("case", MASKS)
def test_masks_have_their_own_values_outside(tmp_path: Path, case: str) -> None:
    (arrays, changes), make, split = MASKS[case]
    check_official(scene_of_arrays(tmp_path, arrays | masks(make), official_split=official_fields(**split), **changes))


@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        ("rgb", lambda part: COLORS[part]),
        ("rgb", lambda part: (part > 0)[:, :, None].repeat(3, 2) * 255),
        ("one-hot", lambda part: one_hot(part, 3)),
        ("one-hot", lambda part: (part > 0)[:, :, None]),
        ("rgb", lambda part: part[:, :, None]),
    ],
)
def test_masks_of_encoded_labels_have_their_encoding_or_one_channel(tmp_path: Path, encoding: str, make: Any) -> None:
    split = official_fields(**{name: STACK[0] | {"key": name} for name in ("train", "test")})
    arrays = READ[encoding][0] | masks(make)
    check_official(scene_of_arrays(tmp_path, arrays, official_split=split, **READ[encoding][1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda part: part * 0, r"contains only 0 \(54 pixels\), which are all outside the part"),
        (lambda part: np.where(part > 0, part, 7), r"values 7 \(\d+ pixels\), expected one value for the part"),
        (lambda part: np.where(part > 0, part, np.nan), r"set official_split\.ignore: \[\.nan\] if they mean no label"),
        (lambda part: 1 - (part > 0), r"pixels disagree with the ground truth, expected none"),
    ],
)
def test_a_mask_that_fits_in_no_way_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        scene_of_arrays(tmp_path, masks(make), official_split=official_fields())


def rows_of(part: np.ndarray, columns: list[str], base: int, order: str) -> np.ndarray:
    """The list of a part's pixels in a form, in random order."""
    row, column = np.nonzero(part)
    linear = column * HEIGHT + row if order == "matlab" else row * WIDTH + column
    named = {"row": row, "column": column, "y": row, "x": column, "linear": linear}
    rows = np.stack([named[name] + base if name != "class" else part[row, column] for name in columns], axis=1)
    return np.random.default_rng(3).permutation(rows)


def lists_of(columns: list[str], base: int = 0, order: str = "c", *, swapped: bool = False) -> dict[str, np.ndarray]:
    """The lists of both parts, by key."""
    parts = (TEST, TRAIN) if swapped else (TRAIN, TEST)
    return {name: rows_of(part, columns, base, order) for name, part in zip(("tr", "te"), parts, strict=True)}


FORMS: list[tuple[list[str], str]] = [
    (["row", "column"], "c"),
    (["column", "row"], "c"),
    (["x", "y"], "c"),
    (["linear"], "c"),
    (["linear"], "matlab"),
    (["linear", "class"], "matlab"),
    (["row", "column", "class"], "c"),
    (["class", "x", "y"], "c"),
]


def listed_scene(tmp_path: Path, arrays: dict[str, np.ndarray], **form: Any) -> Scene:
    return scene_of_arrays(
        tmp_path, arrays, official_split=official_fields(kind="index", train=LISTS["tr"], test=LISTS["te"], **form)
    )


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("columns", "order"), FORMS)
def test_lists_of_pixels_are_read_in_every_form(tmp_path: Path, columns: list[str], order: str, base: int) -> None:
    arrays = lists_of(columns, base, order)
    check_official(listed_scene(tmp_path, arrays, columns=columns, order=order, index_base=base))


@pytest.mark.parametrize("reshape", [lambda rows: rows[:, 0], lambda rows: rows.T.astype(np.float64)])
def test_a_linear_index_may_be_a_vector(tmp_path: Path, reshape: Any) -> None:
    arrays = {name: reshape(rows) for name, rows in lists_of(["linear"], 1).items()}
    check_official(listed_scene(tmp_path, arrays, columns=["linear"], index_base=1))


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize(("columns", "order"), FORMS[2:])
def test_an_error_names_the_form_that_fits(tmp_path: Path, columns: list[str], order: str, base: int) -> None:
    counts = {"train_counts": official_fields()["test_counts"], "test_counts": official_fields()["train_counts"]}
    declared = {"columns": ["row", "column"], "index_base": base, **counts}
    text = f"columns: [{', '.join(columns)}]" + (f", order: {order}" if "linear" in columns else "")
    with pytest.raises(DataError) as error:
        listed_scene(tmp_path, lists_of(columns, base, order, swapped=True), **declared)
    assert f"{text}, index_base: {base}" in str(error.value).partition("so set ")[2]


def test_a_column_of_classes_is_compared_with_the_ground_truth(tmp_path: Path) -> None:
    form = {"columns": ["row", "column", "class"]}
    lists = lists_of(form["columns"])
    lists["tr"][:2, 2] = 3
    with pytest.raises(DataError, match="of 6 positions have another class than in the ground truth; no other form"):
        listed_scene(tmp_path, lists, **form)
    lists = lists_of(["class", "x", "y"])
    for rows in lists.values():
        rows[:, 0] = np.array([0, 1, 3, 7])[rows[:, 0]]
    arrays, changes = READ["1, 3, 7"]
    split = official_fields(kind="index", train=LISTS["tr"], test=LISTS["te"], columns=["class", "x", "y"])
    check_official(scene_of_arrays(tmp_path, lists | arrays, official_split=split, **changes))
