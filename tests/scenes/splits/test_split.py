"""Splits: disjoint, exact, nested, deterministic and complete, or an error that names the class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny import every_other_pixel, muufl_labels, striped_map, tiny_scene, trento_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import BenchError, SplitError
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.splits.split import Split, make_split

PROTOCOLS = ("random-v1", "official-v1", "block-v1")


@st.composite
def small_scenes(draw: st.DrawFn) -> Scene:
    """Scenes of a few hundred pixels with uneven classes."""
    height, width = draw(st.integers(6, 18)), draw(st.integers(6, 18))
    classes = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.dirichlet(np.ones(classes + 1) * 0.7)
    truth = rng.choice(classes + 1, size=(height, width), p=weights)
    truth.flat[:classes] = np.arange(1, classes + 1)
    return tiny_scene(truth, classes=classes)


def near_by_shifting(scene: Scene, pixels: IntArray, reach: int) -> np.ndarray:
    """Mask (height * width,) of the pixels within reach of a given pixel, by shifting the mask in all directions."""
    mask = np.zeros((scene.height, scene.width), dtype=bool)
    mask.flat[pixels] = True
    padded, near = np.pad(mask, reach), np.zeros_like(mask)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            near |= padded[row : row + scene.height, column : column + scene.width]
    return near.reshape(-1)


def assert_valid(scene: Scene, split: Split) -> None:
    """Check the properties of every split of every protocol."""
    classes = np.arange(1, scene.num_classes + 1)
    np.testing.assert_array_equal(scene.labels[split.support], np.repeat(classes, split.shots))
    assert np.unique(split.support).size == split.support.size
    assert not np.intersect1d(split.support, split.query).size
    assert (np.diff(split.query) > 0).all()
    np.testing.assert_array_equal(np.unique(scene.labels[split.query]), classes)
    assert split.support.dtype == split.query.dtype == np.int64


@given(small_scenes(), st.integers(1, 8), st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_a_random_split_is_exact_or_names_the_class(scene: Scene, shots: int, draw: int) -> None:
    counts = np.bincount(scene.labels, minlength=scene.num_classes + 1)[1:]
    if (counts <= shots).any():
        with pytest.raises(SplitError) as caught:
            make_split(scene, "random-v1", shots=shots, draw=draw, window=3)
        assert any(f"class {k + 1} (class {k + 1})" in str(caught.value) for k in np.flatnonzero(counts <= shots))
        assert f"{shots} shots" in str(caught.value)
        return
    split = make_split(scene, "random-v1", shots=shots, draw=draw, window=3)
    assert_valid(scene, split)
    assert split.support.size + split.query.size == scene.labelled_pixels.size
    again = make_split(dataclasses.replace(scene), "random-v1", shots=shots, draw=draw, window=3)
    assert again.sha256 == split.sha256
    np.testing.assert_array_equal(again.support, split.support)
    fewer = make_split(scene, "random-v1", shots=max(1, shots - 1), draw=draw, window=3)
    assert set(fewer.support) <= set(split.support)


def test_too_few_pixels_name_class_and_counts() -> None:
    truth = striped_map(48, 48, 3)
    keep = np.flatnonzero(truth == 2)[:4]
    truth[truth == 2] = 0
    truth.flat[keep] = 2
    scene = tiny_scene(truth)
    with pytest.raises(SplitError, match=r"class 2 \(class 2\) has 4 candidates; use at most 3 shots"):
        make_split(scene, "random-v1", shots=5, draw=0, window=5)
    with pytest.raises(SplitError, match=r"class 2 \(class 2\) has no query pixel; use at most 3 shots"):
        make_split(scene, "random-v1", shots=4, draw=0, window=5)
    assert_valid(scene, make_split(scene, "random-v1", shots=3, draw=0, window=5))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_class_without_pixels_is_named(name: Any) -> None:
    truth = striped_map(48, 48, 3)
    truth[truth == 2] = 0
    scene = tiny_scene(truth, official=every_other_pixel(truth))
    with pytest.raises(SplitError, match=r"no labelled pixel is of class class 2; correct the values: of the class"):
        make_split(scene, name, shots=1, draw=0, window=5)


def test_shots_are_nested_and_draws_differ() -> None:
    scene = tiny_scene(striped_map(120, 140), official=every_other_pixel(striped_map(120, 140)))
    for name in PROTOCOLS:
        supports = [make_split(scene, name, shots=n, draw=3, window=7).support.reshape(4, n) for n in (2, 5, 10)]
        np.testing.assert_array_equal(supports[0], supports[1][:, :2])
        np.testing.assert_array_equal(supports[1], supports[2][:, :5])
        draws = {make_split(scene, name, shots=5, draw=d, window=7).sha256 for d in range(10)}
        assert len(draws) == 10


def test_support_is_uniform_over_a_class() -> None:
    truth = np.repeat([[1], [2]], 20, axis=1)
    scene = tiny_scene(truth)
    hits = np.zeros(40)
    for draw in range(600):
        hits[make_split(scene, "random-v1", shots=5, draw=draw, window=1).support] += 1
    expected = 600 * 5 / 20
    assert np.sum((hits - expected) ** 2 / expected) < 90  # chi-square, 38 degrees of freedom, p = 4e-6


@given(
    st.integers(80, 120), st.integers(80, 120), st.integers(2, 4), st.integers(0, 50), st.sampled_from((1, 5, 11, 13))
)
@settings(max_examples=30, deadline=None)
def test_a_block_split_keeps_its_buffer(height: int, width: int, classes: int, draw: int, window: int) -> None:
    scene = tiny_scene(striped_map(height, width, classes, field=9))
    try:
        split = make_split(scene, "block-v1", shots=2, draw=draw, window=window)
    except SplitError as error:
        assert "block-v1 on tiny" in str(error)  # noqa: PT017 - a small raster may have no such split
        return
    assert_valid(scene, split)
    assert np.isin(split.support, split.train_area).all()
    near = near_by_shifting(scene, split.train_area, window - 1)
    np.testing.assert_array_equal(split.query, scene.labelled_pixels[~near[scene.labelled_pixels]])


def test_blocks_depend_on_the_draw_but_not_on_shots_or_usual_windows() -> None:
    scene = tiny_scene(striped_map(128, 160, 5))

    def area(shots: int, window: int, draw: int = 1) -> list[int]:
        split = make_split(scene, "block-v1", shots=shots, draw=draw, window=window)
        assert split.query.size > scene.labelled_pixels.size / 5
        return split.train_area.tolist()  # type: ignore[union-attr,no-any-return]

    assert area(2, 11) == area(20, 11) == area(2, 5) != area(2, 11, draw=2)


def test_a_class_in_one_place_cannot_be_split_into_blocks() -> None:
    truth = striped_map(96, 96, 2)
    truth[40:50, 40:50] = 3
    with pytest.raises(SplitError, match=r"draw 0: class 3 \(class 3, 100 pixels\).*away; use random-v1\.$"):
        make_split(tiny_scene(truth), "block-v1", shots=2, draw=0, window=11)


def test_advice_for_blocks_names_only_what_the_scene_has() -> None:
    truth = striped_map(96, 96, 2)
    truth[40:50, 40:50] = 3
    scene = tiny_scene(truth, official=every_other_pixel(truth))
    with pytest.raises(SplitError, match=r"away, as for all windows up to 11; use random-v1 or official-v1\.$"):
        make_split(scene, "block-v1", shots=2, draw=0, window=5)
    with pytest.raises(SplitError, match=r"13 pixels away; use random-v1 or official-v1 or a smaller window\.$"):
        make_split(scene, "block-v1", shots=2, draw=0, window=13)


@pytest.mark.parametrize("part", [0, 1])
def test_an_official_part_without_a_class_is_not_blamed_on_the_shots(part: int) -> None:
    truth = striped_map(60, 60, 3)
    parts = list(every_other_pixel(truth))
    parts[part] = parts[part][truth.reshape(-1)[parts[part]] != 2]
    with pytest.raises(SplitError, match=r"class 2 \(class 2\) has (0 candidates|no query pixel); use random-v1\.$"):
        make_split(tiny_scene(truth, official=tuple(parts)), "official-v1", shots=1, draw=0, window=5)


def test_a_class_of_one_pixel_needs_more_labels() -> None:
    truth = striped_map(30, 40, 2)
    truth[10, 10] = 3
    for shots in (1, 2):
        with pytest.raises(SplitError, match=r"class 3 .*; label more of its pixels, or remove the class"):
            make_split(tiny_scene(truth), "random-v1", shots=shots, draw=0, window=5)


def test_an_official_split_uses_the_published_pixels() -> None:
    truth = striped_map(60, 60, 3)
    train, test = every_other_pixel(truth)
    scene = tiny_scene(truth, official=(train[::-1].copy(), test))
    split = make_split(scene, "official-v1", shots=7, draw=0, window=5)
    assert_valid(scene, split)
    assert np.isin(split.support, train).all()
    np.testing.assert_array_equal(split.query, test)
    same = make_split(tiny_scene(truth, official=(train, test)), "official-v1", shots=7, draw=0, window=5)
    assert same.sha256 == split.sha256


def test_a_scene_without_official_split_is_an_error() -> None:
    with pytest.raises(SplitError, match=r"no official split\. Use random-v1 or block-v1"):
        make_split(tiny_scene(striped_map(40, 40)), "official-v1", shots=2, draw=0, window=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 0}, "shots is 0; use at least 1"),
        ({"draw": -1}, "draws count from 0"),
        ({"window": 4}, "window 4 has no centre pixel"),
        ({"window": 0}, "window 0 has no centre pixel"),
        ({"window": 31}, r"window 31 is larger than the scene \(30 x 40 pixels\); use a smaller odd window, or"),
    ],
)
def test_invalid_arguments_give_one_line(arguments: dict[str, int], message: str) -> None:
    scene = tiny_scene(striped_map(30, 40))
    with pytest.raises(BenchError, match=message):
        make_split(scene, "random-v1", **{"shots": 2, "draw": 0, "window": 5, **arguments})


def test_the_hash_covers_every_attribute() -> None:
    base = Split("random-v1", 1, 0, 3, np.array([1, 2]), np.array([3, 4]), None)
    changes = [
        {"name": "block-v1"},
        {"shots": 2},
        {"draw": 1},
        {"window": 5},
        {"support": np.array([2, 1])},
        {"query": np.array([3, 5])},
        {"train_area": np.array([1])},
        {"train_area": np.array([], dtype=np.int64)},
        {"support": np.array([1, 2, 3]), "query": np.array([4])},
    ]
    hashes = {dataclasses.replace(base, **change).sha256 for change in changes} | {base.sha256}
    assert len(hashes) == len(changes) + 1
    assert dataclasses.replace(base, support=base.support.astype(np.int32)).sha256 == base.sha256


# Real ground truth


@pytest.mark.parametrize("name", PROTOCOLS)
def test_trento_splits_are_valid(shared_data: Path, name: str) -> None:
    scene = trento_labels(shared_data)
    for draw in range(20):
        split = make_split(scene, name, shots=40, draw=draw, window=11)
        assert_valid(scene, split)
        if name == "block-v1":
            assert not near_by_shifting(scene, split.train_area, 10)[split.query].any()
            assert split.query.size > 10_000
        else:
            assert split.query.size == {"random-v1": 30_214 - 240, "official-v1": 29_395}[name]


def test_muufl_small_classes_can_be_split_into_blocks(shared_data: Path) -> None:
    scene = muufl_labels(shared_data)
    for draw in range(5):
        assert_valid(scene, make_split(scene, "block-v1", shots=20, draw=draw, window=11))
