"""What the feature cache refuses: damaged and foreign segments, features that do not fit, and invalid requests."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers.feature_store import (
    ADDRESS,
    SHAPES,
    Network,
    Tensors,
    cache,
    cell,
    check,
    extract,
    features,
    never,
    segments,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.methods.toolkit.feature_cache import load_or_extract


def edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Damage a segment with h5py."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def set_item(name: str, place: Any, value: Any) -> Callable[[Path], None]:
    return edit(lambda file: file[name].__setitem__(place, value))


def flip_a_bit_of_row_6(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.find(features([6])["deep"].half().numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["rows"] = np.arange(4)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "cannot be read"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("no features " * 99), "cannot be read"),
    "foreign": (foreign, "cannot be read"),
    "flipped bit": (flip_a_bit_of_row_6, "row 6 was changed after it was written"),
    "other values": (set_item("levels/coarse", 1, 7), "row 5 was changed after it was written"),
    "other rows": (set_item("rows", 1, 99), "the content does not match the file name"),
    "other seals": (set_item("seals", (1, 1), 0), "the content does not match the file name"),
    "level removed": (edit(lambda file: file["levels"].pop("deep")), "cannot be read"),
    "rows removed": (edit(lambda file: file.pop("rows")), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_segments_are_refused_and_kept(damage: str) -> None:
    extract(range(12), Network())
    _, segment, _ = segments()
    spoil, message = DAMAGES[damage]
    spoil(segment)
    content = segment.read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"^.*{segment.name}: .*{message}.*; remove this file to extract its rows"):
            extract(range(12), never).read(np.arange(12))
    assert segment.read_bytes() == content
    segment.unlink()  # as the message advises
    network = Network()
    check(extract(range(12), network), range(12))
    assert network.calls == [[4, 5, 6, 7]]


def test_reading_checks_only_the_rows_that_are_read() -> None:
    extract(range(12), Network())
    flip_a_bit_of_row_6(segments()[1])
    check(extract(range(12), never), [5, 7, 0])


def test_a_missing_segment_is_an_error() -> None:
    store = extract(range(8), Network())
    gone = segments()[1]
    gone.unlink()
    check(store, [3, 1])
    with pytest.raises(DataError, match=f"{gone.name}: is missing or not a regular file"):
        store.read(np.array([5]))


def test_a_segment_of_another_folder_or_name_is_refused() -> None:
    network = Network()
    extract([1, 2], network)
    (one,) = segments()
    extract([1, 2], network, address={**ADDRESS, "network": "0124"})
    (two,) = {*segments()} - {one}
    assert one.name != two.name

    shutil.copy(one, two)
    with pytest.raises(DataError, match=f"{two.name}: its features belong to another network, scene or setting"):
        extract([1], never, address={**ADDRESS, "network": "0124"})
    copied = one.with_name(f"{'0' * 64}.h5")
    shutil.copy(one, copied)
    with pytest.raises(DataError, match=f"{copied.name}: the content does not match the file name"):
        extract([1], never)


def test_a_row_in_two_segments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, after two caches were merged."""
    root = os.environ["MMRS_BENCH_CACHE"]
    extract([1, 2], Network())
    (one,) = segments()
    monkeypatch.setenv("MMRS_BENCH_CACHE", root + "-other")
    extract([2, 3], Network())
    (other,) = segments()
    shutil.copy(other, one.parent)
    monkeypatch.setenv("MMRS_BENCH_CACHE", root)
    with pytest.raises(DataError, match=r"row 2 is also in [0-9a-f]+\.h5; remove this file"):
        extract([1], never)


@pytest.fixture(scope="module")
def segment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", str(folder))
        extract([5, 3, 9], Network())
        (path,) = segments()
    return path


def test_segments_have_no_heap_of_strings(segment_file: Path) -> None:
    """HDF5 has no checksum for it, and a flipped bit there can cause an endless loop."""
    assert b"GCOL" not in segment_file.read_bytes()
    with h5py.File(segment_file) as file:
        assert file.attrs.get_id("key").dtype.kind == "S"


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0), flip=st.integers(1, 255))
def test_no_flipped_byte_gives_other_values(segment_file: Path, place: int, flip: int) -> None:
    """A flip in an unused byte changes nothing; any other raises an error."""
    whole = bytearray(segment_file.read_bytes())
    spoilt = whole.copy()
    spoilt[place % len(whole)] ^= flip
    refusal = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", str(segment_file.parents[2]))
        segment_file.write_bytes(spoilt)
        try:
            check(extract([5, 3, 9], never), [9, 3, 5])
        except DataError as error:
            refusal = str(error)
    segment_file.write_bytes(whole)
    assert not refusal or segment_file.name in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "NaN or infinite"),
        (float("-inf"), "NaN or infinite"),
        (7e4, "beyond ±65504, the range of half precision"),
        (-1e30, "beyond ±65504, the range of half precision"),
    ],
)
def test_values_outside_half_precision_are_refused(value: float, message: str) -> None:
    def compute(rows: Any) -> Tensors:
        tensors = features(rows)
        tensors["fine"][rows == 6, 1, 2] = value
        return tensors

    for _ in range(2):
        with pytest.raises(TrainingError, match=f"^features: level 'fine' has values that are {message}, .* in row 6;"):
            extract(range(12), compute)
        assert len(segments()) == 1
    network = Network()
    check(extract(range(12), network), range(12))
    assert network.rows == [*range(4, 12)]


@pytest.mark.parametrize(
    "change",
    [
        {"deep": None},
        {"more": torch.zeros(3)},
        {"deep": torch.zeros(3, 4)},
        {"deep": torch.zeros(2, 5)},
        {"fine": torch.zeros(3, 6)},
        {"coarse": torch.zeros(3, 1)},
        {"coarse": torch.zeros(3, dtype=torch.int64)},
    ],
)
def test_unexpected_levels_shapes_or_types_are_refused(change: dict[str, torch.Tensor | None]) -> None:
    def compute(rows: Any) -> Any:
        tensors = {**features(rows), **change}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    with pytest.raises(ValueError, match=r"^compute returned \{.*'fine': \[3, 2, 3\]"):
        extract([1, 2, 3], compute)
    assert not segments()


@pytest.mark.parametrize(
    ("rows", "shapes", "segment", "message"),
    [
        (np.array([1, 2, 1]), SHAPES, 4, "distinct"),
        (np.array([1, -2]), SHAPES, 4, "not negative"),
        (np.array([1.0, 2.0]), SHAPES, 4, r"one-dimensional array of integers, not float64 \[2\]"),
        (np.array([True, False]), SHAPES, 4, "not bool"),
        (np.array([[1, 2]]), SHAPES, 4, r"not int64 \[1, 2\]"),
        (np.array([1, 2]), SHAPES, 0, "segment must be at least 1, not 0"),
        (np.array([1, 2]), {}, 4, "levels need names"),
        (np.array([1, 2]), {"a/b": (1,)}, 4, "levels need names, without a slash"),
        (np.array([1, 2]), {"": (1,)}, 4, "levels need names"),
        (np.array([1, 2]), {"a": (1, 0)}, 4, "at least 1"),
    ],
)
def test_invalid_arguments_are_refused(rows: Any, shapes: Any, segment: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_or_extract(ADDRESS, rows, shapes, never, cell(), segment=segment)
    assert not cache().exists()


@pytest.mark.parametrize("rows", [np.array([1.0]), np.array([[1]]), np.array([True])])
def test_reading_invalid_rows_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="one-dimensional array of integers"):
        extract([1], Network()).read(rows)
