"""Vectors of pairs against a slow loop, and what features of tiles depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.unidiff_helpers import (
    NAMES,
    TILES,
    WIDTH,
    cheap,
    fitted,
    picture_data,
    pretrained,
    slow_activations,
    slow_pairs,
    slow_vector,
)
from torch import Tensor

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.unidiff.features import BATCH, TileFeatures
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.scenes.scene import IntArray

pytestmark = pytest.mark.usefixtures("shared_cache")

#: Corners, edges and the inside of the scene.
PIXELS = np.array([0, WIDTH - 1, WIDTH * 35, WIDTH * 36 - 1, 8 * WIDTH + 8, 700, 703, 15 * WIDTH + 39])


@pytest.mark.parametrize("block", [0, 1])
def test_vectors_equal_a_loop(block: int, tmp_path: Path) -> None:
    """Block 0 has half the resolution of the tile, block 1 the full one."""
    data = picture_data()
    method = pretrained(tmp_path, data, block=block)
    features = method.pairs(data).features
    assert features.shapes == dict.fromkeys(NAMES, (32, 8 * (1 + block), 8 * (1 + block)))
    assert len(features.grid) == TILES
    activations = slow_activations(method, data, block)
    pairs = [(int(pixel), pair) for pixel in PIXELS for pair in slow_pairs(int(pixel))]
    places = features.grid.tiles_of(PIXELS)
    assert [*zip(PIXELS[places.pixel], places.tile, strict=True)] == [(pixel, tile) for pixel, (tile, *_) in pairs]
    found = features.vectors(places)
    torch.testing.assert_close(
        found, torch.stack([slow_vector(activations, *pair) for _, pair in pairs]), rtol=0, atol=2e-3
    )
    assert found.std(dim=0).min() > 5e-3, "all places are similar, so the comparison shows nothing"


def test_features_of_a_tile_do_not_depend_on_other_tiles(tmp_path: Path) -> None:
    """To the last bit, in another order and without the others."""
    data = picture_data()
    features = pretrained(tmp_path, data).pairs(data).features
    tiles = np.arange(BATCH + 3)
    together, reversed_order = features.compute(tiles), features.compute(tiles[::-1].copy())
    single = features.compute(tiles[5:6])
    for name in NAMES:
        assert torch.equal(together[name], reversed_order[name].flip(0))
        assert torch.equal(together[name][5:6], single[name])
        assert not torch.equal(together[name][4], together[name][5])


def test_only_necessary_tiles_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "own"))
    computed: list[int] = []
    real = TileFeatures.compute

    def compute(self: TileFeatures, tiles: IntArray) -> dict[str, Tensor]:
        computed.extend(tiles.tolist())
        return real(self, tiles)

    monkeypatch.setattr(TileFeatures, "compute", compute)
    data = picture_data()
    method = fitted(tmp_path, data)
    of_support = {tile for pixel in data.support for tile, *_ in slow_pairs(int(pixel))}
    assert sorted(computed) == sorted(of_support)
    assert len(of_support) < TILES, "all tiles contain support pixels, so this shows nothing"
    method.predict(data, PIXELS[:0])
    assert len(computed) == len(of_support)
    method.predict(data, PIXELS)
    assert sorted(computed) == sorted(of_support | {tile for pixel in PIXELS for tile, *_ in slow_pairs(int(pixel))})


def test_shots_draws_and_heads_share_features_and_other_settings_do_not(cache: Path, tmp_path: Path) -> None:
    def folders() -> set[str]:
        return {path.name for path in (cache / "features").iterdir() if path.is_dir()}

    data = picture_data()
    method = fitted(tmp_path, data)
    method.predict(data, data.query)
    before = folders()
    fitted(tmp_path, picture_data(3, draw=1), draw=1, head="spectral-film", epochs=1, learning_rate=0.1)
    assert folders() == before
    given = {"denoiser": method.denoiser, "pictures": scene_pictures(method.config, data), "timestep": 100, "block": 0}
    others: list[dict[str, Any]] = [
        {"timestep": 102},
        {"block": 2},
        {"pictures": scene_pictures(cheap(tmp_path, stride=16).config, data)},
        {"pictures": scene_pictures(cheap(tmp_path, pictures=("rgb", "sar")).config, data)},
        {"denoiser": pretrained(tmp_path, data, adaptation="none").denoiser},
    ]
    for changes in [{}, *others]:
        known = folders()
        TileFeatures(**{**given, **changes}, context=method.context).store(np.array([0]))
        assert len(folders() - known) == (changes != {}), changes


def test_bfloat16_features_are_close_to_single_precision(tmp_path: Path) -> None:
    data = picture_data()
    method = pretrained(tmp_path, data)
    context = RunContext(seed=0, draw=0, work_dir=tmp_path, execution=ExecutionConfig(precision="bf16-mixed"))
    pictures = scene_pictures(method.config, data)
    single, half = (
        TileFeatures(method.denoiser, pictures, timestep=100, block=0, context=one).compute(np.arange(2))["rgb"]
        for one in (method.context, context)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(single, half)
    assert (single - half).abs().mean() < 0.05 * single.abs().mean()
