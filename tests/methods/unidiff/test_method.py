"""Stage B of UniDiff, and GeoDiffNet-F: training of the head, mean over tiles, saved models, refused input."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import refused
from helpers.module_cases import logged_scores, saved, trainer
from helpers.network_helpers import same
from helpers.unidiff_helpers import (
    CHEAP,
    SMALL,
    cheap,
    fitted,
    picture_data,
    picture_scene,
    pretrained,
    slow_activations,
    slow_pairs,
    slow_vector,
    small_checkpoint,
)
from safetensors.torch import load_file, save_file

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import ParameterCounts
from mmrs_bench.methods.toolkit.classification import VALIDATION_METRIC
from mmrs_bench.methods.unidiff.adaptation import adapted_denoiser
from mmrs_bench.methods.unidiff.adm import build_adm
from mmrs_bench.methods.unidiff.datamodule import TileFeatureDataModule
from mmrs_bench.methods.unidiff.head_module import HeadModule
from mmrs_bench.methods.unidiff.method import ADAPTERS_FILE, BACKBONE_FILE

pytestmark = pytest.mark.usefixtures("shared_cache")

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs the package peft")
#: Pixels at the corners and inside.
PIXELS = np.array([0, 39, 1400, 1439, 328, 700, 703, 639])


# Training of the head


def test_the_head_is_trained_on_every_pair_of_the_support(tmp_path: Path) -> None:
    """In one batch: each pixel once per tile, with its class, vector and spectrum."""
    data = picture_data()
    method = pretrained(tmp_path, data, "geodiffnet-f-tiny", pictures=(), batch_size=64)
    method.create(data)
    loader = method.loaders(data).train
    (batch,), (later,) = list(loader), list(loader)
    vectors, spectra, targets = (batch[name] for name in ("vectors", "spectra", "target"))
    activations = slow_activations(method, data, 0)
    expected = [
        (target, slow_vector(activations, *pair), data.features(np.array([pixel]), ("hsi",))[0])
        for pixel, target in zip(data.support, data.support_targets, strict=True)
        for pair in slow_pairs(int(pixel))
    ]
    nearest = torch.cdist(vectors, torch.stack([vector for _, vector, _ in expected])).min(dim=1)
    order = nearest.indices.tolist()
    assert sorted(order) == [*range(len(expected))]
    assert nearest.values.max() < 0.02
    assert targets.tolist() == [expected[k][0] for k in order]
    assert np.array_equal(spectra, np.stack([expected[k][2] for k in order]))
    assert not torch.equal(later["pixel"], batch["pixel"]), "every epoch has its own order"


def test_paper_val_is_the_accuracy_over_the_pairs_of_the_validation_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[float] = []
    monkeypatch.setattr(
        HeadModule,
        "on_validation_epoch_end",
        lambda self: logged.append(float(self.trainer.callback_metrics[VALIDATION_METRIC])),
    )
    data = picture_data(window=5, selection="paper-val")
    method = fitted(tmp_path, data, epochs=1, learning_rate=1.0)
    places = method.pairs(data).features.grid.tiles_of(data.validation)
    with torch.no_grad():
        found = method.module(method.pairs(data).features.vectors(places)).argmax(dim=1).numpy()
    assert logged == [pytest.approx(float((found == data.validation_targets[places.pixel]).mean()))]


# Prediction


@pytest.mark.parametrize("name", ["unidiff-tiny", "geodiffnet-f-tiny"])
def test_unidiff_averages_tiles_and_geodiffnet_counts_their_labels(name: str, tmp_path: Path) -> None:
    """Of equally frequent labels, GeoDiffNet takes the one that a tile gives first."""
    data = picture_data()
    method = fitted(tmp_path, data, name)
    activations = slow_activations(method, data, 0)
    pixels = np.concatenate([PIXELS, np.arange(300, 1000, 3), PIXELS[:2]])
    found = method.predict(data, pixels)
    disagreeing = 0
    for pixel, target in zip(pixels, found, strict=True):
        votes = []
        for pair in slow_pairs(int(pixel)):
            inputs = [slow_vector(activations, *pair)[None]]
            if name == "geodiffnet-f-tiny":
                inputs.append(torch.from_numpy(data.features(np.array([pixel]), ("hsi",))))
            with torch.no_grad():
                votes.append(method.module(*inputs)[0].softmax(0))
        labels = [int(vote.argmax()) for vote in votes]
        mean = torch.stack(votes).mean(0)
        clear = float((mean if name == "unidiff-tiny" else torch.stack(votes)).topk(2).values.diff().abs().min()) > 5e-3
        expected = int(mean.argmax()) if name == "unidiff-tiny" else max(labels, key=labels.count)
        assert target == expected or not clear
        disagreeing += len(set(labels)) > 1 and clear
    assert disagreeing, "no two tiles disagree, so this shows nothing"


@pytest.mark.parametrize("name", ["unidiff-tiny", "geodiffnet-f-tiny"])
def test_a_trainer_with_the_data_module_has_the_scores_of_the_runner(name: str, tmp_path: Path) -> None:
    """Batches of 101 pixels, read from the checkpoint of stage A."""
    data = picture_data()
    method = fitted(tmp_path, data, name)
    module, _ = adapted_denoiser(method.config, data, method.context)
    own = trainer(tmp_path, 0)
    served = TileFeatureDataModule(
        picture_scene(),
        shots=2,
        checkpoint=saved(module, tmp_path / "adapted.ckpt"),
        pictures=method.config.pictures,
        spectra=name == "geodiffnet-f-tiny",
        noise_seed=method.noise_seed,
        class_label=method.class_label,
        inference_batch=101,
        **{key: CHEAP[key] for key in ("tile", "stride", "timestep", "block")},
    )
    predicted = method.predict(data, data.query)
    assert np.array_equal(torch.cat(own.predict(method.module, datamodule=served)).numpy(), predicted)
    (logged,) = own.test(method.module, datamodule=served, verbose=False)
    assert logged == pytest.approx(logged_scores(data, predicted), abs=1e-12)


@pytest.mark.parametrize("name", ["unidiff-tiny", "geodiffnet-f-tiny"])
def test_parameter_counts_include_backbone_adapters_and_head(name: str, tmp_path: Path) -> None:
    method = fitted(tmp_path, picture_data(), name)
    head = sum(values.numel() for values in method.module.parameters())
    total = sum(values.numel() for values in build_adm(SMALL).parameters())
    adapted = sum(values.numel() for values in method.denoiser.adapted_state().values())
    assert bool(adapted) == (name == "unidiff-tiny")
    assert method.parameter_counts() == ParameterCounts(total + head, adapted + head)


# Saved models


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"adaptation": "film"}, id="film"),
        pytest.param({"adaptation": "lora"}, id="lora", marks=needs_peft),
        pytest.param({"adaptation": "full"}, id="full"),
        pytest.param({"adaptation": "none", "head": "spectral-sum", "pictures": ("rgb",)}, id="geodiffnet"),
    ],
)
def test_a_saved_model_needs_no_cache(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture_data()
    method = fitted(tmp_path, data, **options)
    pixels = data.query[::9]
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    method.save(tmp_path)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    loaded = cheap(tmp_path, **options)
    loaded.load(tmp_path)
    assert same(loaded.denoiser.adapted_state(), method.denoiser.adapted_state())
    assert loaded.parameter_counts() == method.parameter_counts()
    assert np.array_equal(loaded.predict(picture_data(), pixels), expected)
    assert not (tmp_path / "empty" / "pretraining").exists()


def test_the_checkpoint_is_not_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
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
    with refused(DataError, "Fetch it with"):
        cheap(tmp_path, **options).load(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    fitted(tmp_path, picture_data()).save(tmp_path)
    for path in (tmp_path / ADAPTERS_FILE, tmp_path / BACKBONE_FILE):
        content = path.read_bytes()
        for damaged in (b"cut off", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with refused(DataError, r"fit and save it again$"):
                cheap(tmp_path).load(tmp_path)
        path.write_bytes(content)
    backbone = load_file(tmp_path / BACKBONE_FILE)
    backbone["conv_in.bias"][0] += 1
    save_file(backbone, tmp_path / BACKBONE_FILE)
    with refused(DataError, "the values differ from those that were written"):
        cheap(tmp_path).load(tmp_path)


# Refused input


def test_the_head_with_spectra_needs_the_hsi_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    options = {"head": "spectral-sum", "adaptation": "none", "backbone": "imagenet"}
    with refused(ConfigError, "head spectral-sum needs spectra, but the modalities are sar, lidar; add hsi"):
        pretrained(tmp_path, picture_data(modalities=("sar", "lidar")), **options)
    assert not (tmp_path / "empty" / "pretraining").exists()


def test_a_record_says_that_tiles_reach_over_the_distance_of_blocks(tmp_path: Path) -> None:
    method = fitted(tmp_path, picture_data())
    assert method.notes() == ()
    protocol = picture_data().config.model_copy(update={"split": "block-v1", "window": 5})
    data = picture_data()
    data.config = protocol
    method.fit(data)
    (note,) = method.notes()
    assert "tiles of 16 pixels, which reach over the distance of 5 pixels" in note
