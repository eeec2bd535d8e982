"""Stage B of UniDiff, and GeoDiffNet-F: vectors of pairs, soft voting, saved models, bad input, and the cards."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import make
from helpers.network_helpers import same, silent
from helpers.unidiff_helpers import SMALL, STAGE_A, picture_data, small_checkpoint, small_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import ParameterCounts, RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.toolkit.network_method import description_file, weights_file
from mmrs_bench.methods.unidiff import method as unidiff
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig, build_adm
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.features import EXTRACTED_AT_ONCE, NOISE_SEED, TileFeatures, activation_shape
from mmrs_bench.methods.unidiff.method import ADAPTERS_FILE, BACKBONE_FILE, NAME, PixelHead, UniDiff, UniDiffConfig
from mmrs_bench.methods.unidiff.pictures import ScenePictures, picture_row, scene_pictures
from mmrs_bench.methods.unidiff.pixel_heads import PixelMLP
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the package peft")

CARDS = ("unidiff", "unidiff-tiny", "geodiffnet-f", "geodiffnet-f-tiny")
HEIGHT, WIDTH, SIDE, STRIDE, TILES = 36, 40, 16, 8, 16
#: Corners, where mirrored borders are near, edges, and the inside.
PIXELS = np.array([0, WIDTH - 1, WIDTH * (HEIGHT - 1), WIDTH * HEIGHT - 1, 8 * WIDTH + 8, 700, 703, 15 * WIDTH + 39])
STAGE_B: dict[str, Any] = {"block": 0, "timestep": 100, "hidden": (8,), "epochs": 3, "learning_rate": 0.01}
ORDER = ("rgb", "pca", "sar", "lidar0", "lidar1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _small_and_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network for `tiny`; trainings and features are shared, as the cells of a run share them."""
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(cache))
    small_tiny(monkeypatch)
    monkeypatch.setattr(unidiff, "ADM_TINY", SMALL)


def cheap(folder: Path, name: str = "unidiff-tiny", **options: Any) -> UniDiff:
    """A method of the suite at sizes that train in a fraction of a second."""
    method = make(name, folder, **{**STAGE_A, **STAGE_B, **options})
    assert isinstance(method, UniDiff)
    return method


def fitted(folder: Path, data: SceneDataModule, name: str = "unidiff-tiny", **options: Any) -> UniDiff:
    method = cheap(folder, name, **options)
    method.pretrain(data)
    method.fit(data)
    return method


def features_of(method: UniDiff, data: SceneDataModule) -> TileFeatures:
    return method._features(data)


# Vectors of pairs


def slow_tile(picture: Tensor, tile: int) -> Tensor:
    """A tile (1, 3, s, s) of a picture whose lower and right borders are mirrored."""
    columns = 1 + -(-(WIDTH - SIDE) // STRIDE)
    row, column = (STRIDE * part for part in divmod(tile, columns))
    padded = np.pad(picture.numpy(), ((0, SIDE), (0, SIDE), (0, 0)), mode="reflect")
    return torch.from_numpy(padded[row : row + SIDE, column : column + SIDE].transpose(2, 0, 1)[None].copy())


def slow_pairs(pixel: int) -> list[tuple[int, int, int]]:
    """Tile, row and column in it, for every tile that a pixel lies in."""
    row, column = divmod(pixel, WIDTH)
    rows, columns = (1 + -(-(length - SIDE) // STRIDE) for length in (HEIGHT, WIDTH))
    return [
        (i * columns + j, row - STRIDE * i, column - STRIDE * j)
        for i in range(rows)
        for j in range(columns)
        if 0 <= row - STRIDE * i < SIDE and 0 <= column - STRIDE * j < SIDE
    ]


def bilinear(activation: Tensor, row: int, column: int) -> Tensor:
    """The value (d,) at a place of the tile; corners are not aligned."""
    d, h, w = activation.shape
    total = torch.zeros(d)
    y, x = (max(0.0, (place + 0.5) * size / SIDE - 0.5) for place, size in ((row, h), (column, w)))
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - i)) * (1 - abs(x - j))
            total += share * activation[:, min(i, h - 1), min(j, w - 1)]
    return total


def slow_activations(method: UniDiff, pictures: ScenePictures, block: int) -> list[list[Tensor]]:
    """Of every tile by itself, and of every picture, in half precision as the cache keeps them."""
    return [
        [
            method._denoiser.features(slow_tile(picture, tile), 100, picture_row(name), block, NOISE_SEED)[0].half()
            for name, picture in pictures.images.items()
        ]
        for tile in range(TILES)
    ]


def slow_vector(activations: list[list[Tensor]], tile: int, row: int, column: int) -> Tensor:
    return torch.cat([bilinear(activation.float(), row, column) for activation in activations[tile]])


@pytest.mark.parametrize("block", [0, 1])
def test_vectors_are_those_of_a_loop(block: int, tmp_path: Path) -> None:
    """Block 0 has half the tile's side, block 1 the whole."""
    data = picture_data()
    method = cheap(tmp_path, block=block)
    method.pretrain(data)
    features, pictures = features_of(method, data), scene_pictures(method.config, data)
    assert tuple(pictures.images) == tuple(features.shapes) == ORDER
    assert len(features.grid) == TILES
    activations = slow_activations(method, pictures, block)
    assert set(features.shapes.values()) == {(32, 8 * (1 + block), 8 * (1 + block))}
    places = features.grid.tiles_of(PIXELS)
    found = features.vectors(places)
    expected = [
        (int(pixel), tile, slow_vector(activations, tile, row, column))
        for pixel in PIXELS
        for tile, row, column in slow_pairs(int(pixel))
    ]
    assert [(int(PIXELS[p]), int(t)) for p, t in zip(places.pixel, places.tile, strict=True)] == [
        (pixel, tile) for pixel, tile, _ in expected
    ]
    torch.testing.assert_close(found, torch.stack([vector for *_, vector in expected]), rtol=0, atol=2e-3)
    assert found.std(dim=0).min() > 5e-3, "the places look alike, so the comparison proves nothing"


def test_features_of_a_tile_do_not_hang_on_the_others(tmp_path: Path) -> None:
    """Bit by bit, in other company, in another order and alone."""
    data = picture_data()
    method = cheap(tmp_path)
    method.pretrain(data)
    features = features_of(method, data)
    tiles = np.arange(EXTRACTED_AT_ONCE + 3)
    together, turned = features.computed(tiles), features.computed(tiles[::-1].copy())
    alone = features.computed(tiles[5:6])
    for name in ORDER:
        assert torch.equal(together[name], turned[name].flip(0))
        assert torch.equal(together[name][5:6], alone[name])
        assert not torch.equal(together[name][4], together[name][5])


def test_only_tiles_that_are_asked_for_are_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "own"))
    asked: list[int] = []
    real = TileFeatures.computed

    def computed(self: TileFeatures, tiles: IntArray) -> dict[str, Tensor]:
        asked.extend(tiles.tolist())
        return real(self, tiles)

    monkeypatch.setattr(TileFeatures, "computed", computed)
    data = picture_data()
    method = fitted(tmp_path, data)
    of_support = {tile for pixel in data.support for tile, *_ in slow_pairs(int(pixel))}
    assert sorted(asked) == sorted(of_support)
    assert len(of_support) < TILES, "all tiles hold support pixels, so nothing is shown"
    method.predict(data, PIXELS[:0])
    assert len(asked) == len(of_support)
    method.predict(data, PIXELS)
    assert sorted(asked) == sorted(of_support | {tile for pixel in PIXELS for tile, *_ in slow_pairs(int(pixel))})


def feature_folders(cache: Path) -> set[str]:
    return {path.name for path in (cache / "features").iterdir() if path.is_dir()}


def test_shots_draws_and_heads_share_features_and_nothing_else_does(cache: Path, tmp_path: Path) -> None:
    data = picture_data()
    method = fitted(tmp_path, data)
    method.predict(data, data.query)
    before = feature_folders(cache)
    fitted(tmp_path, picture_data(3, draw=1), draw=1, head="spectral-film", epochs=1, learning_rate=0.1)
    assert feature_folders(cache) == before
    bare = cheap(tmp_path, adaptation="none")
    bare.pretrain(data)
    given: dict[str, Any] = {
        "denoiser": method._denoiser,
        "pictures": scene_pictures(method.config, data),
        "timestep": 100,
        "block": 0,
        "context": method.context,
    }
    others: list[dict[str, Any]] = [
        {"timestep": 102},
        {"block": 2},
        {"pictures": scene_pictures(cheap(tmp_path, stride=16).config, data)},
        {"pictures": scene_pictures(cheap(tmp_path, pictures=("rgb", "sar")).config, data)},
        {"denoiser": bare._denoiser},
    ]
    for changes in [{}, *others]:
        known = feature_folders(cache)
        TileFeatures(**{**given, **changes}).of(np.array([0]))
        assert len(feature_folders(cache) - known) == (changes != {}), changes


def without_memory(config: AdmConfig) -> AdaptedDenoiser:
    with torch.device("meta"):
        weights = build_adm(config).state_dict()
    return AdaptedDenoiser(config, weights, "none", backbone="")


def test_shapes_are_known_before_anything_is_computed() -> None:
    full = without_memory(ADM_64)
    documented = [(768, 8)] * 3 + [(768, 16)] + [(576, 16)] * 3 + [(576, 32)] + [(384, 32)] * 3 + [(384, 64)]
    documented += [(192, 64)] * 4
    assert [activation_shape(full, 64, block) for block in range(16)] == [(d, s, s) for d, s in documented]
    small = without_memory(ADM_TINY)
    for block in range(small.decoder_blocks):
        activation = small.features(torch.empty(1, 3, 32, 32, device="meta"), 0, 1, block, seed=0)
        assert activation.shape[1:] == activation_shape(small, 32, block)


def test_half_precision_is_close_and_has_features_of_its_own(tmp_path: Path) -> None:
    data = picture_data()
    method = cheap(tmp_path)
    method.pretrain(data)
    context = RunContext(seed=0, draw=0, work_dir=tmp_path, execution=ExecutionConfig(precision="bf16-mixed"))
    pictures = scene_pictures(method.config, data)
    single, half = (
        TileFeatures(method._denoiser, pictures, timestep=100, block=0, context=one).computed(np.arange(2))["rgb"]
        for one in (method.context, context)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(single, half)
    assert (single - half).abs().mean() < 0.05 * single.abs().mean()


# The head's training


def test_the_head_learns_every_pair_of_the_support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one batch: each pixel as often as it lies in tiles, with its class, its vector and its spectrum."""
    seen: list[dict[str, Any]] = []
    real = PixelHead.training_step

    def training_step(self: PixelHead, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seen.append(batch)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(PixelHead, "training_step", training_step)
    data = picture_data()
    method = fitted(tmp_path, data, "geodiffnet-f-tiny", pictures=(), epochs=2, batch_size=64)
    assert len(seen) == 2
    (vectors, spectra), targets = seen[0]["inputs"], seen[0]["target"]
    activations = slow_activations(method, scene_pictures(method.config, data), 0)
    expected = [
        (target, slow_vector(activations, *pair), data.features(np.array([pixel]), ("hsi",))[0])
        for pixel, target in zip(data.support, data.support_targets, strict=True)
        for pair in slow_pairs(int(pixel))
    ]
    order = torch.argsort(seen[0]["pixel"])
    assert targets[order].tolist() == [target for target, *_ in expected]
    torch.testing.assert_close(vectors[order], torch.stack([vector for _, vector, _ in expected]), rtol=0, atol=2e-3)
    assert np.array_equal(spectra[order], np.stack([spectrum for *_, spectrum in expected]))
    assert seen[1]["pixel"].tolist() != seen[0]["pixel"].tolist(), "every epoch has its own order"


def test_the_step_is_the_cross_entropy_of_a_loop() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = PixelHead(PixelMLP(5, (4,), 3), UniDiffConfig()).eval()
    silent(module)
    vectors, targets = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    with torch.no_grad():
        loss = module.training_step({"inputs": [vectors], "target": targets}, 0)
        logits = module.head(vectors).double()
    slow = [float(row.exp().sum().log() - row[k]) for row, k in zip(logits, targets.tolist(), strict=True)]
    assert float(loss) == pytest.approx(sum(slow) / 6, rel=1e-5)


def test_paper_val_keeps_the_first_best_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the accuracy over the validation pixels' pairs, measured here by hand after every epoch."""
    states: list[dict[str, Tensor]] = []
    accuracies: list[float] = []
    data = picture_data(window=5, selection="paper-val")
    real = PixelHead.on_validation_epoch_end

    def on_validation_epoch_end(self: PixelHead) -> None:
        states.append({name: values.clone() for name, values in self.head.state_dict().items()})
        accuracies.append(float(self.trainer.callback_metrics[unidiff.VALIDATION_METRIC]))
        real(self)

    monkeypatch.setattr(PixelHead, "on_validation_epoch_end", on_validation_epoch_end)
    method = fitted(tmp_path, data, epochs=8, learning_rate=1.0)
    features = features_of(method, data)
    places = features.grid.tiles_of(data.validation)
    vectors, targets = features.vectors(places), torch.from_numpy(data.validation_targets[places.pixel])
    head = PixelMLP(vectors.shape[1], (8,), data.num_classes).eval()
    by_hand = []
    for state in states:
        head.load_state_dict(state)
        with torch.no_grad():
            by_hand.append(float((head(vectors).argmax(dim=1) == targets).float().mean()))
    assert by_hand == pytest.approx(accuracies)
    best = int(np.argmax(by_hand))
    assert best < 7, "the last epoch is the best, so nothing is shown"
    assert same(method._head.state_dict(), states[best])
    last = fitted(tmp_path, picture_data(window=5), epochs=8, learning_rate=1.0)
    assert not same(last._head.state_dict(), states[best])


# Prediction


@pytest.mark.parametrize("name", ["unidiff-tiny", "geodiffnet-f-tiny"])
def test_the_prediction_is_the_mean_over_tiles(name: str, tmp_path: Path) -> None:
    data = picture_data()
    method = fitted(tmp_path, data, name)
    activations = slow_activations(method, scene_pictures(method.config, data), 0)
    pixels = np.concatenate([PIXELS, np.arange(300, 340, 3)])
    found = method.predict(data, pixels)
    disagreeing = 0
    for pixel, target in zip(pixels, found, strict=True):
        votes = []
        for pair in slow_pairs(int(pixel)):
            inputs = [slow_vector(activations, *pair)[None]]
            if name == "geodiffnet-f-tiny":
                inputs.append(torch.from_numpy(data.features(np.array([pixel]), ("hsi",))))
            with torch.no_grad():
                votes.append(method._head(*inputs)[0].softmax(0))
        mean = torch.stack(votes).mean(0)
        top = mean.sort(descending=True).values
        assert target == int(mean.argmax()) or float(top[0] - top[1]) < 5e-3
        disagreeing += len({int(vote.argmax()) for vote in votes}) > 1
    assert disagreeing, "no two tiles disagree, so any vote would do"


def test_a_prediction_does_not_hang_on_the_other_pixels_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture_data()
    method = fitted(tmp_path, data)
    pixels = data.query[::5]
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    for some in (pixels[3::29], pixels[::-1], pixels[:0], np.repeat(pixels[7:9], 2)):
        assert np.array_equal(method.predict(data, some), expected[np.searchsorted(pixels, some)])


def test_it_learns_a_scene_of_blocks(tmp_path: Path) -> None:
    data = picture_data(5)
    method = fitted(tmp_path, data, block=3, timestep=0, epochs=30)
    assert (method.predict(data, data.query[::3]) == data.query_targets[::3]).mean() > 0.8


def test_geodiffnet_sees_nothing_but_the_hsi(tmp_path: Path) -> None:
    data = picture_data()
    method = fitted(tmp_path, data, "geodiffnet-f-tiny")
    assert tuple(features_of(method, data).shapes) == ("rgb",)
    other = picture_data()
    for name in ("sar", "lidar"):
        other.scene.images[name][:] = np.random.default_rng(9).random(other.scene.images[name].shape)
    pixels = data.query[::9]
    alone = fitted(tmp_path, other, "geodiffnet-f-tiny")
    assert np.array_equal(alone.predict(other, pixels), method.predict(data, pixels))


def test_another_input_than_that_it_was_fitted_to_is_refused(tmp_path: Path) -> None:
    data = picture_data()
    method = fitted(tmp_path, data)
    with pytest.raises(ConfigError, match="UniDiff was fitted to windows of 11 with channels hsi 5, sar 2, lidar 2"):
        method.predict(picture_data(modalities=("hsi", "sar")), data.query[:3])


# Parameters


@pytest.mark.parametrize(
    ("name", "adapted"), [("unidiff-tiny", True), ("geodiffnet-f-tiny", False)], ids=["film", "none"]
)
def test_parameters_are_backbone_adapters_and_head(name: str, adapted: bool, tmp_path: Path) -> None:
    method = fitted(tmp_path, picture_data(), name)
    backbone = dict(build_adm(SMALL).named_parameters())
    film = sum(
        values.numel()
        for name, values in backbone.items()
        if name == "class_embedding.weight" or (name.startswith("up_blocks.") and ".time_emb_proj." in name)
    )
    head = sum(values.numel() for values in method._head.parameters())
    total = sum(values.numel() for values in backbone.values())
    assert method.parameter_counts() == ParameterCounts(total + head, (film if adapted else 0) + head)
    if adapted:
        assert head == 5 * 32 * 8 + 8 + 2 * 8 + 8 * 4 + 4


# Saved models


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"adaptation": "film"}, id="film"),
        pytest.param({"adaptation": "lora"}, id="lora", marks=needs_peft),
        pytest.param({"adaptation": "full"}, id="full"),
        pytest.param({"adaptation": "none", "head": "spectral-film", "pictures": ("rgb",)}, id="geodiffnet"),
    ],
)
def test_a_fitted_model_needs_no_cache(
    options: dict[str, Any], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = picture_data()
    method = fitted(tmp_path, data, **options)
    pixels = data.query[::9]
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    method.save(tmp_path)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    loaded = cheap(tmp_path, **options)
    loaded.load(tmp_path)
    assert same(loaded._denoiser.adapted_state(), method._denoiser.adapted_state())
    assert loaded.parameter_counts() == method.parameter_counts()
    assert np.array_equal(loaded.predict(picture_data(), pixels), expected)
    assert not (tmp_path / "empty" / "pretraining").exists()


def test_with_the_checkpoint_no_backbone_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unidiff, "ADM_64", SMALL)
    small_checkpoint(monkeypatch)
    data = picture_data()
    options = {"backbone": "imagenet", "adapt_epochs": 1}
    method = fitted(tmp_path, data, **options)
    expected = method.predict(data, PIXELS)
    method.save(tmp_path)
    assert not (tmp_path / BACKBONE_FILE).exists()
    adapters = load_file(tmp_path / ADAPTERS_FILE)
    assert all(name == "class_embedding.weight" or ".time_emb_proj." in name for name in adapters)
    for folder in ("pretraining", "features"):
        shutil.rmtree(tmp_path / "cache" / folder)
    loaded = cheap(tmp_path, **options)
    loaded.load(tmp_path)
    assert np.array_equal(loaded.predict(data, PIXELS), expected)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError, match="Fetch it with") as caught:
        cheap(tmp_path, **options).load(tmp_path)
    assert "\n" not in str(caught.value)


def test_adapters_of_another_backbone_are_refused(tmp_path: Path) -> None:
    """The backbones of two seeds have the same sizes and other weights."""
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        fitted(tmp_path, picture_data(), seed=seed).save(folder)
    shutil.copy(folders[1] / ADAPTERS_FILE, folders[0] / ADAPTERS_FILE)
    with pytest.raises(
        DataError, match=r"the adapters are of backbone adm-tiny .*, this denoiser is of backbone"
    ) as caught:
        cheap(tmp_path).load(folders[0])
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_clear_line(tmp_path: Path) -> None:
    fitted(tmp_path, picture_data()).save(tmp_path)
    files = [description_file(tmp_path, NAME), weights_file(tmp_path, NAME)]
    for path in (*files, tmp_path / ADAPTERS_FILE, tmp_path / BACKBONE_FILE):
        content = path.read_bytes()
        for damaged in (b"cut off", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(DataError, match=r"fit and save it again$") as caught:
                cheap(tmp_path).load(tmp_path)
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
    backbone = load_file(tmp_path / BACKBONE_FILE)
    backbone["conv_in.bias"][0] += 1
    save_file(backbone, tmp_path / BACKBONE_FILE)
    with pytest.raises(DataError, match="the values are not those that were written"):
        cheap(tmp_path).load(tmp_path)
    with pytest.raises(DataError, match=r"was saved with other settings .timestep"):
        cheap(tmp_path, timestep=7).load(tmp_path)
    save_file({"other": torch.zeros(2)}, weights_file(tmp_path, NAME))
    with pytest.raises(DataError, match="the weights do not fit"):
        cheap(tmp_path).load(tmp_path)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 1000}, r"timestep: Input should be less than 1000 \(found 1000\)"),
        ({"timestep": -1}, "timestep"),
        ({"block": 4}, r"block: .*this backbone has the blocks 0 to 3 \(found 4\)"),
        ({"block": -1}, "block"),
        ({"batch_size": 2}, "batch_size"),
        ({"hidden": (0,)}, "hidden"),
    ],
)
def test_settings_that_do_not_exist_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cheap(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_blocks_are_those_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert UniDiffConfig(block=15).block == 15
    assert UniDiffConfig(backbone="tiny", block=7).block == 7
    for backbone, blocks in (("imagenet", "0 to 15"), ("tiny", "0 to 7")):
        with pytest.raises(ValueError, match=f"has the blocks {blocks}"):
            UniDiffConfig.model_validate({"backbone": backbone, "block": 16})
    with pytest.raises(ValueError, match="0 to 7"):
        UniDiffConfig(backbone="tiny")  # the default is a block of the other


@pytest.mark.parametrize(
    ("options", "protocol", "message"),
    [
        ({"tile": 80, "stride": 40}, {}, r"the raster \(36 x 40 pixels\) is too small for tiles of 80"),
        (
            {"head": "spectral-film", "adaptation": "none", "backbone": "imagenet"},
            {"modalities": ("sar", "lidar")},
            "head spectral-film reads spectra, but the method sees sar, lidar only",
        ),
    ],
    ids=["tile", "spectra"],
)
def test_what_does_not_fit_the_scene_is_told_before_any_training(
    options: dict[str, Any], protocol: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=message) as caught:
        cheap(tmp_path, **options).pretrain(picture_data(**protocol))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "empty" / "pretraining").exists()


# The cards


def settings(name: str, variant: str = "default", budget: Any = "paper") -> UniDiffConfig:
    return UniDiffConfig.model_validate(resolve_config(method_card(name), variant, budget))


@pytest.fixture
def _real_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()


@pytest.mark.usefixtures("_real_sizes")
@pytest.mark.parametrize("name", CARDS)
def test_every_variant_is_valid_under_every_budget(name: str) -> None:
    card = method_card(name)
    assert set(card.config) == set(UniDiffConfig.model_fields)
    for variant in card.variants:
        for budget in ("smoke", "quick", "paper"):
            config = settings(name, variant, budget)
            assert config.backbone == ("tiny" if name.endswith("-tiny") else "imagenet")


@pytest.mark.usefixtures("_real_sizes")
def test_the_papers_settings_are_the_defaults() -> None:
    """2,000 steps of 32 tiles of 64; timestep 0, block 10 on Augsburg and 300, 11 on Berlin."""
    default, berlin = settings("unidiff"), settings("unidiff", "berlin")
    assert UniDiffConfig() == default
    assert default.adapt_epochs * default.epoch_steps == 2000
    assert (default.tile, default.stride, default.adapt_batch, default.adapt_rate) == (64, 32, 32, 1e-4)
    assert (default.timestep, default.block, default.hidden, default.batch_size) == (0, 10, (128,), 32)
    assert (berlin.timestep, berlin.block, berlin.hidden, berlin.batch_size) == (300, 11, (128, 32), 64)
    film, film_berlin = settings("geodiffnet-f"), settings("geodiffnet-f", "berlin")
    assert (film.pictures, film.adaptation, film.head) == (("rgb",), "none", "spectral-film")
    assert (film.timestep, film.block, film.learning_rate, film.weight_decay) == (0, 10, 3e-3, 1e-4)
    assert (film_berlin.timestep, film_berlin.block) == (50, 11)


@pytest.mark.usefixtures("_real_sizes")
def test_the_stand_ins_say_so_and_differ_in_the_backbone_only() -> None:
    free = {"backbone", "block", "lora_rank"}
    for name in ("unidiff", "geodiffnet-f"):
        card, tiny = method_card(name), method_card(f"{name}-tiny")
        assert (card.needs_weights, card.external_data) == (("adm-imagenet-64",), "ImageNet")
        assert (tiny.needs_weights, tiny.external_data, tiny.uses_unlabelled) == ((), "none", True)
        for text in (tiny.title, tiny.reference):
            assert "stand-in" in text
        assert {key for key in card.config if card.config[key] != tiny.config[key]} == free
        assert set(card.variants) - {"berlin"} == set(tiny.variants)
        for variant in tiny.variants:
            assert card.variants[variant] == tiny.variants[variant]
    assert settings("unidiff", "unadapted").adaptation == "none"
    assert not settings("unidiff", "no-anchor").anchored


@pytest.mark.usefixtures("_real_sizes")
def test_the_stand_ins_share_their_backbone() -> None:
    """Under each budget, so that one source training serves both."""
    shared = ("tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate")
    for budget in ("smoke", "quick", "paper"):
        one, other = (settings(name, budget=budget) for name in ("unidiff-tiny", "geodiffnet-f-tiny"))
        assert [getattr(one, name) for name in shared] == [getattr(other, name) for name in shared]
    assert set(shared) < set(AdaptationConfig.model_fields)
