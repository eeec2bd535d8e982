"""The simulated landscape: class counts, connected polygons, labels, heights."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simulation import landscape_of
from helpers.tiny import tiny_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mmrs_bench.errors import ManifestError
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.manifest import Generator, Manifest
from mmrs_bench.scenes.simulator.landscape import label_counts
from mmrs_bench.scenes.simulator.painter import smooth_field

NAMES = ("Meadow", "Woodland", "Road", "Tile roof", "Water", "Building shadow", "Bare soil", "Xyzzy")


def manifest_with(height: int, width: int, counts: list[int | None]) -> Manifest:
    manifest = tiny_manifest(height, width, len(counts), {"hsi": 4})
    classes = tuple(
        c.model_copy(update={"name": name, "count": count})
        for c, name, count in zip(manifest.classes, NAMES, counts, strict=False)
    )
    return manifest.model_copy(update={"classes": classes, "generator": Generator(layout="default")})


def component_sizes(raster: np.ndarray, classes: int) -> np.ndarray:
    """Sizes of the 8-connected components of classes 1..K."""
    components = [ndimage.label(raster == k, np.ones((3, 3)))[0] for k in range(1, classes + 1)]
    return np.concatenate([np.bincount(c.reshape(-1))[1:] for c in components])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), height=st.integers(6, 40), width=st.integers(6, 40), classes=st.integers(2, len(NAMES)))
def test_counts_are_exact_on_any_raster(data: st.DataObject, height: int, width: int, classes: int) -> None:
    largest = height * width // classes
    counts = data.draw(st.lists(st.integers(1, largest), min_size=classes, max_size=classes))
    landscape = landscape_of(manifest_with(height, width, list(counts)), data.draw(st.integers(0, 3)))
    assert np.bincount(landscape.ground_truth.reshape(-1), minlength=classes + 1)[1:].tolist() == counts
    assert landscape.classes.min() >= 0
    assert landscape.classes.max() < classes
    labelled = landscape.ground_truth > 0
    assert np.array_equal(landscape.ground_truth[labelled] - 1, landscape.classes[labelled])
    assert np.isfinite(landscape.elevation).all()


def test_all_pixels_can_be_labelled_but_not_more() -> None:
    assert (landscape_of(manifest_with(12, 12, [100, 20, 10, 10, 4])).ground_truth > 0).all()
    with pytest.raises(ManifestError, match="add up to 145 labelled pixels, the raster has 144"):
        landscape_of(manifest_with(12, 12, [100, 45]))


def test_classes_without_count_get_equal_shares() -> None:
    assert label_counts(manifest_with(20, 20, [None, None, 30, None])) == [55, 55, 30, 55]


def test_smooth_fields_have_unit_variance_and_gaussian_correlation() -> None:
    fields = np.stack([smooth_field((40, 52), 2.0, "test", i) for i in range(200)]).astype(np.float64)
    assert fields.mean() == pytest.approx(0.0, abs=0.02)
    assert fields.var() == pytest.approx(1.0, abs=0.03)
    for lag in (1, 3, 6):
        # White noise after a Gaussian filter of standard deviation s has correlation exp(-lag^2 / (4 s^2)).
        expected = np.exp(-(lag**2) / (4 * 2.0**2))
        assert (fields * np.roll(fields, lag, axis=2)).mean() == pytest.approx(expected, abs=0.03)


def test_the_default_map_has_large_connected_polygons() -> None:
    manifest = load_manifest("simulated")
    landscape = landscape_of(manifest)
    for axis in (0, 1):
        assert (np.diff(landscape.classes, axis=axis) == 0).mean() > 0.88
    sizes = component_sizes(landscape.ground_truth, len(manifest.classes))
    assert 60 < sizes.size < 200
    # Most labelled pixels lie in large polygons, as in the real scenes.
    assert sizes[sizes >= 50].sum() > 0.85 * sizes.sum()
    assert 0.5 < (landscape.ground_truth > 0).mean() < 0.7


def test_the_trento_twin_has_few_large_polygons() -> None:
    """The real ground truth has 38 polygons, the largest of 9,123 pixels."""
    manifest = load_manifest("sim-trento")
    sizes = component_sizes(landscape_of(manifest).ground_truth, len(manifest.classes))
    assert sizes.size < 150
    assert sizes.max() > 3000


def test_elevation_depends_on_the_class() -> None:
    manifest = load_manifest("simulated")
    landscape = landscape_of(manifest)
    inner = ndimage.minimum_filter(landscape.classes, 3) == ndimage.maximum_filter(landscape.classes, 3)
    height = {n: landscape.elevation[(landscape.classes == k) & inner] for k, n in enumerate(manifest.class_names)}
    assert height["Woodland"].mean() > 4
    assert height["Flat roof"].mean() > 2.5
    assert max(abs(height[name].mean()) for name in ("Road", "Bare soil", "Water")) < 0.3
    assert height["Woodland"].std() > 5 * height["Road"].std()
