"""The simulated map: class counts, coherence, labels, heights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mmrs_bench.errors import ManifestError
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.simulator.landscape import Ground, build_ground, label_counts
from mmrs_bench.scenes.simulator.painter import smooth_field
from mmrs_bench.scenes.simulator.profiles import class_profiles

NAMES = ("Meadow", "Woodland", "Road", "Tile roof", "Water", "Building shadow", "Bare soil", "Xyzzy")
EIGHT = np.ones((3, 3))


def tiny_manifest(height: int, width: int, counts: list[int | None], names: tuple[str, ...] = NAMES) -> Manifest:
    classes = [
        {"id": i + 1, "name": name, "color": f"#0000{i:02d}", "count": count}
        for i, (name, count) in enumerate(zip(names, counts, strict=False))
    ]
    return Manifest.model_validate(
        {
            "schema": 1,
            "id": "tiny",
            "revision": "r1",
            "title": "tiny",
            "height": height,
            "width": width,
            "modalities": [{"name": "hsi", "sensor": "s", "bands": 4}],
            "classes": classes,
            "generator": {"layout": "default"},
            "terms": "none",
            "citation": "none",
        }
    )


def ground_of(manifest: Manifest, seed: int = 0) -> Ground:
    gsd_m = manifest.gsd_m or 1.0
    profiles = class_profiles(manifest.class_names, gsd_m=gsd_m)
    return build_ground(manifest, profiles, gsd_m=gsd_m, address=("test", seed))


def components(raster: np.ndarray, classes: int) -> list[int]:
    """Sizes of the 8-connected pieces of classes 1..K."""
    sizes: list[int] = []
    for k in range(1, classes + 1):
        pieces = ndimage.label(raster == k, EIGHT)[0]
        sizes += np.bincount(pieces.reshape(-1))[1:].tolist()
    return sizes


@settings(max_examples=40, deadline=None)
@given(data=st.data(), height=st.integers(6, 40), width=st.integers(6, 40), classes=st.integers(2, len(NAMES)))
def test_counts_are_exact_on_any_raster(data: st.DataObject, height: int, width: int, classes: int) -> None:
    most = height * width // classes
    counts = data.draw(st.lists(st.integers(1, most), min_size=classes, max_size=classes))
    ground = ground_of(tiny_manifest(height, width, list(counts)), data.draw(st.integers(0, 3)))
    assert np.bincount(ground.ground_truth.reshape(-1), minlength=classes + 1)[1:].tolist() == counts
    assert ground.classes.min() >= 0
    assert ground.classes.max() < classes
    labelled = ground.ground_truth > 0
    assert np.array_equal(ground.ground_truth[labelled] - 1, ground.classes[labelled])
    assert np.isfinite(ground.elevation).all()


def test_every_pixel_may_be_labelled() -> None:
    ground = ground_of(tiny_manifest(12, 12, [100, 20, 10, 10, 4]))
    assert (ground.ground_truth > 0).all()


def test_classes_without_count_share_what_is_labelled() -> None:
    manifest = tiny_manifest(20, 20, [None, None, 30, None])
    assert label_counts(manifest) == [55, 55, 30, 55]


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(ManifestError, match="add up to 145 labelled pixels, the raster has 144"):
        ground_of(tiny_manifest(12, 12, [100, 45]))


def test_smooth_fields_have_unit_variance_and_their_correlation() -> None:
    fields = np.stack([smooth_field((40, 52), 2.0, "test", i) for i in range(200)]).astype(np.float64)
    assert fields.mean() == pytest.approx(0.0, abs=0.02)
    assert fields.var() == pytest.approx(1.0, abs=0.03)
    for lag in (1, 3, 6):
        # White noise smoothed by a Gaussian of deviation s has correlation exp(-lag^2 / (4 s^2)).
        expected = np.exp(-(lag**2) / (4 * 2.0**2))
        assert (fields * np.roll(fields, lag, axis=2)).mean() == pytest.approx(expected, abs=0.03)


def test_default_map_is_a_landscape() -> None:
    manifest = load_manifest("simulated")
    ground = ground_of(manifest)
    same = (np.diff(ground.classes, axis=0) == 0).mean(), (np.diff(ground.classes, axis=1) == 0).mean()
    assert min(same) > 0.88
    sizes = np.array(components(ground.ground_truth, len(manifest.classes)))
    assert 60 < sizes.size < 200
    # Most labelled pixels lie in large polygons, as in the real scenes.
    assert sizes[sizes >= 50].sum() > 0.85 * sizes.sum()
    assert 0.5 < (ground.ground_truth > 0).mean() < 0.7


def test_trento_twin_has_few_big_polygons() -> None:
    manifest = load_manifest("sim-trento")
    ground = ground_of(manifest)
    counts = [c.count for c in manifest.classes]
    assert np.bincount(ground.ground_truth.reshape(-1))[1:].tolist() == counts
    # The real ground truth: 38 polygons, the largest of 9,123 pixels.
    sizes = components(ground.ground_truth, len(manifest.classes))
    assert len(sizes) < 150
    assert max(sizes) > 3000


def test_heights_follow_classes() -> None:
    manifest = load_manifest("simulated")
    ground = ground_of(manifest)
    inner = ndimage.minimum_filter(ground.classes, 3) == ndimage.maximum_filter(ground.classes, 3)
    height = {name: ground.elevation[(ground.classes == k) & inner] for k, name in enumerate(manifest.class_names)}
    assert height["Woodland"].mean() > 4
    assert height["Flat roof"].mean() > 2.5
    assert max(abs(height[name].mean()) for name in ("Road", "Bare soil", "Water")) < 0.3
    # Crowns are rough, roads are not.
    assert height["Woodland"].std() > 5 * height["Road"].std()
