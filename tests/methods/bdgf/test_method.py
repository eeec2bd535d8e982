"""Stage 2 of BDGF: features, mutual learning, prediction, saved networks, and the cards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bdgf_helpers import SIDE, cheap, settings
from helpers.method_helpers import small_data
from helpers.network_helpers import random_windows, same, silent, weights
from helpers.tiny import striped_map, tiny_scene
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.base import ParameterCounts
from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.features import EXTRACTION_BATCH, InMemoryFeatures, level_name
from mmrs_bench.methods.bdgf.guided_branches import BRANCHES, GuidedEnsemble
from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.bdgf.module import PREDICTION_BATCH, GuidedLearner
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.bdgf.mutual_learning import mutual_loss
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.toolkit import training
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

CARDS = ("bdgf", "bdgf-cnn", "bdgf-mamba", "bdgf-transformer")
CHANNELS = {"hsi": 5, "lidar": 2}
LEVELS = (8, 4)
BATCH = 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests use the same pretraining, as the cells of a run do."""
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(cache))


@pytest.fixture
def data() -> SceneDataModule:
    return small_data(window=SIDE)


def fitted(folder: Path, data: SceneDataModule, **options: Any) -> Bdgf:
    method = cheap(folder, **options)
    method.pretrain(data)
    method.fit(data)
    return method


def learner(config: BdgfConfig) -> GuidedLearner:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        options = {"branches": config.branches, "width": config.width, "dropout": 0.0, "reach": config.reach}
        ensemble = GuidedEnsemble(CHANNELS, LEVELS, 4, **options)
    made = GuidedLearner(ensemble, config)
    silent(made)
    return made


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(BATCH, count, SIDE, SIDE, generator=generator) for count in LEVELS]
    target = torch.randint(4, (BATCH,), generator=generator)
    return {"windows": random_windows(CHANNELS, BATCH, SIDE), "features": features, "target": target}


# Features


class Windows:
    """A store whose features are the windows themselves."""

    def __init__(self, data: SceneDataModule) -> None:
        self._gatherer = data.gatherer(torch.device("cpu"))

    def read(self, rows: IntArray) -> dict[str, Tensor]:
        windows = self._gatherer.gather(torch.from_numpy(rows)).values()
        return {level_name(level): window.half() for level, window in enumerate(windows)}


def test_features_get_the_symmetries_of_their_windows(data: SceneDataModule) -> None:
    """All eight symmetries, on windows that are not symmetric."""
    pixels = np.array([0, 39, 200, 717, 1439])
    gatherer = data.gatherer(torch.device("cpu"))
    stored = InMemoryFeatures(Windows(data), pixels, gatherer)  # type: ignore[arg-type]
    some = torch.tensor([717, 0, 1439, 717])
    for symmetry in range(8):
        same_for_all = torch.full((4,), symmetry)
        windows = gatherer.gather(some, same_for_all).values()
        for found, window in zip(stored.read(some, same_for_all), windows, strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, window.half().float())
            assert symmetry == 0 or not torch.equal(found, stored.read(some)[0])
    mixed = torch.tensor([3, 0, 6, 5])
    windows = gatherer.gather(some, mixed).values()
    assert all(torch.equal(a, b.half().float()) for a, b in zip(stored.read(some, mixed), windows, strict=True))


def test_training_uses_features_that_are_aligned_with_its_windows(
    data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of a stand-in denoiser are the windows; both stay equal through cache, loader and symmetries."""

    def echo(self: MultimodalDenoiser, windows: dict[str, Tensor], **options: Any) -> list[Tensor]:
        return [tiled(windows, count) for count in self.feature_channels]

    def tiled(windows: dict[str, Tensor], count: int) -> Tensor:
        return torch.cat(list(windows.values()), dim=1)[:, torch.arange(count) % 7]

    seen: list[bool] = []
    real = GuidedLearner.training_step

    def training_step(self: GuidedLearner, batch: dict[str, Any], batch_idx: int) -> Tensor:
        for level in batch["features"]:
            assert torch.equal(level, tiled(batch["windows"], level.shape[1]).half().float())
        plain = data.gatherer(torch.device("cpu")).gather(batch["pixel"])
        seen.append(all(torch.equal(plain[name], window) for name, window in batch["windows"].items()))
        return real(self, batch, batch_idx)

    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "echoes"))
    monkeypatch.setattr(MultimodalDenoiser, "decoder_features", echo)
    monkeypatch.setattr(GuidedLearner, "training_step", training_step)
    for symmetries in (True, False):
        seen.clear()
        fitted(tmp_path, data, symmetries=symmetries)
        assert seen == [not symmetries] * 2


def test_features_of_a_pixel_do_not_depend_on_other_pixels(data: SceneDataModule, tmp_path: Path) -> None:
    """To the last bit, in another order and for a single pixel."""
    method = fitted(tmp_path, data)
    features = method._features(data)
    pixels = np.arange(EXTRACTION_BATCH + 7)
    all_at_once, reversed_order = features.compute(pixels), features.compute(pixels[::-1].copy())
    single = features.compute(pixels[9:10])
    windows = data.gatherer(torch.device("cpu")).gather(torch.from_numpy(pixels[:8]))
    direct = method.network.denoiser.decoder_features(windows, timesteps=(50,), seed=0)
    for level, name in enumerate(features.shapes):
        assert torch.equal(all_at_once[name], reversed_order[name].flip(0))
        assert torch.equal(all_at_once[name][9:10], single[name])
        torch.testing.assert_close(all_at_once[name][:8], direct[level])
        assert all_at_once[name].shape[1:] == features.shapes[name]
    stored = features.load_or_extract(pixels).read(pixels[::-1])
    for name, values in all_at_once.items():
        assert torch.equal(stored[name], values.half().flip(0))


def feature_folders(cache: Path) -> set[str]:
    return {path.name for path in (cache / "features").iterdir() if path.is_dir()}


def test_branches_shots_and_draws_share_the_features(
    data: SceneDataModule, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(tmp_path, data)
    before = feature_folders(cache)
    computed: list[int] = []
    real = MultimodalDenoiser.decoder_features

    def counted(self: MultimodalDenoiser, windows: dict[str, Tensor], **options: Any) -> list[Tensor]:
        computed.append(len(windows["hsi"]))
        return real(self, windows, **options)

    monkeypatch.setattr(MultimodalDenoiser, "decoder_features", counted)
    for name in CARDS:
        method = fitted(tmp_path, small_data(5, window=SIDE, draw=1), name=name, draw=1)
        method.predict(small_data(5, window=SIDE, draw=1), np.arange(20))
    assert len(computed) <= 2, "another branch computed them again"
    assert feature_folders(cache) == before
    for options in ({"timesteps": (60,)}, {"seed": 1}):
        known = feature_folders(cache)
        fitted(tmp_path, data, **options)
        assert len(feature_folders(cache) - known) == 1, options


# The training step


def expected_loss(made: GuidedLearner, given: dict[str, Any], config: BdgfConfig, labelled: int = BATCH) -> Tensor:
    names = ("entropy_weight", "similarity_weight", "divergence_weight")
    outputs = list(made.network(given["windows"], given["features"]).values())
    return mutual_loss(outputs, given["target"][:labelled], **{name: getattr(config, name) for name in names}).total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"entropy_weight": 2.0, "similarity_weight": 0.0},
        {"entropy_weight": 0.0, "similarity_weight": 3.0},
        {"divergence_weight": 0.7},
        {"branches": ("mamba", "cnn"), "divergence_weight": 0.7},
        {"branches": ("transformer",), "divergence_weight": 0.7},
    ],
)
def test_the_loss_of_a_step_is_the_mutual_loss_of_the_branches(changes: dict[str, Any]) -> None:
    config = settings(**changes)
    made, given = learner(config).eval(), batch()
    with torch.no_grad():
        assert made.training_step(given, 0) == expected_loss(made, given, config)


def test_unlabelled_windows_count_in_the_mutual_terms_only() -> None:
    config, given = settings(divergence_weight=0.7), batch()
    made, calls = learner(config).eval(), []

    def unlabelled(epoch: int, step: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        calls.append((epoch, step))
        return {name: x[4:] for name, x in given["windows"].items()}, [x[4:] for x in given["features"]]

    made._unlabelled = unlabelled
    labelled = {
        "windows": {name: x[:4] for name, x in given["windows"].items()},
        "features": [x[:4] for x in given["features"]],
        "target": given["target"][:4],
    }
    with torch.no_grad():
        torch.testing.assert_close(made.training_step(labelled, 7), expected_loss(made, given, config, 4))
    assert calls == [(0, 7)]


@pytest.mark.parametrize("shots", [2, 5])
def test_unlabelled_windows_are_in_the_scope_and_depend_on_draw_epoch_and_step(
    shots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All draws share one pool and its features; each step of each draw uses other windows of it."""
    seen: list[Any] = []

    def fit(module: GuidedLearner, *args: Any, **options: Any) -> None:
        seen.append(module._unlabelled)

    data = small_data(shots, window=SIDE, unlabelled="train-blocks", split="block-v1")
    pools, draws = [], []
    for draw in (0, 1):
        method = cheap(tmp_path, draw=draw, mask_rule="none")
        method.pretrain(data)
        monkeypatch.setattr(training, "fit", fit)
        method.fit(data)
        monkeypatch.undo()
        pools.append(method._unlabelled_pool(data).tolist())
        draws.append([seen[-1](epoch, step)[0]["hsi"] for epoch, step in ((0, 0), (0, 1), (1, 0), (0, 0))])
    assert pools[0] == pools[1]
    assert len(pools[0]) == 12
    assert set(pools[0]) <= set(data.unlabelled.tolist())
    for windows in draws:
        assert torch.equal(windows[0], windows[3])
        assert not torch.equal(windows[0], windows[1])
        assert not torch.equal(windows[0], windows[2])
    assert not torch.equal(draws[0][0], draws[1][0])


@pytest.mark.parametrize("changes", [{"unlabelled_windows": 0}, {"branches": ("cnn",)}])
def test_without_mutual_terms_there_are_no_unlabelled_pixels(
    changes: dict[str, Any], data: SceneDataModule, tmp_path: Path
) -> None:
    assert not len(cheap(tmp_path, **changes)._unlabelled_pool(data))


def logged(config: BdgfConfig) -> dict[str, float]:
    made, parts = learner(config), {}
    made.log_dict = lambda values, **options: parts.update(values)  # type: ignore[method-assign,assignment]
    made.training_step(batch(), 0)
    return {name: float(value.detach()) for name, value in parts.items()}


def test_the_parts_of_the_loss_are_logged_and_a_single_branch_has_no_mutual_terms() -> None:
    config = settings(divergence_weight=0.7)
    parts = logged(config)
    assert set(parts) == {"total", "cross_entropy", "entropy", "similarity", "divergence"}
    weighted = 0.1 * parts["entropy"] + 0.1 * parts["similarity"] + 0.7 * parts["divergence"]
    assert parts["total"] == pytest.approx(parts["cross_entropy"] + weighted, rel=1e-5)
    for branch in BRANCHES:
        parts = logged(settings(branches=(branch,), divergence_weight=0.7))
        assert set(parts) == {"total", "cross_entropy"}
        assert parts["total"] == parts["cross_entropy"]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


def test_gradients_of_independent_branches_equal_those_of_single_branches() -> None:
    variant = method_card("bdgf").variants["independent"].config
    made, given = learner(settings(**variant)), batch()
    made.training_step(given, 0).backward()
    together = gradients(made.network)
    for branch in BRANCHES:
        made.zero_grad()
        output = made.network.branches[branch](given["windows"], given["features"])
        F.cross_entropy(output.logits, given["target"]).backward()
        single = gradients(made.network)
        assert single
        for name, gradient in single.items():
            torch.testing.assert_close(together.pop(name), gradient)
    assert not together, "other parameters have a gradient"
    mutual = learner(settings())
    mutual.training_step(given, 0).backward()
    assert any("compare" in name for name in gradients(mutual.network))


def test_optimiser_and_schedule_are_those_of_the_settings() -> None:
    made = learner(settings(learning_rate=0.02, weight_decay=0.3))
    made.trainer = SimpleNamespace(max_epochs=7)  # type: ignore[assignment]
    optimizers = made.configure_optimizers()
    (group,) = optimizers["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert optimizers["lr_scheduler"].T_max == 7
    assert {id(p) for p in group["params"]} == {id(p) for p in made.network.parameters()}


def test_a_loss_that_is_not_finite_stops_the_training(
    data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = cheap(tmp_path)
    method.pretrain(data)
    real = InMemoryFeatures.read
    monkeypatch.setattr(InMemoryFeatures, "read", lambda *args: [level / 0 for level in real(*args)])
    with pytest.raises(TrainingError, match=r"^mutual learning: loss is nan at step 0"):
        method.fit(data)


# Fitting and predicting


def test_fitting_does_not_change_the_denoiser(data: SceneDataModule, tmp_path: Path) -> None:
    method = cheap(tmp_path, weight_decay=0.5)
    method.pretrain(data)
    before = weights(method.pretrained)
    method.fit(data)
    method.predict(data, data.query[:9])
    assert same(before, weights(method.pretrained))
    assert all(p.grad is None and not p.requires_grad for p in method.network.denoiser.parameters())
    counts = [sum(p.numel() for p in part.parameters()) for part in (method.network, method.network.ensemble)]
    assert method.parameter_counts() == ParameterCounts(*counts)
    assert counts[0] > counts[1] > 0


def test_the_prediction_is_the_class_with_the_largest_mean_of_softmaxes(data: SceneDataModule, tmp_path: Path) -> None:
    method = fitted(tmp_path, data)
    pixels = data.query[:: max(1, data.query.size // 70)]
    found = method.predict(data, pixels)
    store = method._features(data).load_or_extract(pixels)
    for pixel, target in zip(pixels, found, strict=True):
        levels = [store.read(np.array([pixel]))[level_name(level)].float() for level in range(2)]
        windows = data.gatherer(torch.device("cpu")).gather(torch.tensor([pixel]))
        with torch.no_grad():
            outputs = method.network.ensemble(windows, levels)
        mean = sum(output.logits.softmax(dim=1) for output in outputs.values()) / 3
        top = mean[0].sort(descending=True).values
        assert target == int(mean.argmax()) or float(top[0] - top[1]) < 1e-5
    assert pixels.size > PREDICTION_BATCH


def test_it_learns_a_scene_of_blocks(data: SceneDataModule, tmp_path: Path) -> None:
    method = fitted(tmp_path, data, epochs=20, learning_rate=0.02)
    assert (method.predict(data, data.query[::4]) == data.query_targets[::4]).mean() > 0.8


def test_paper_val_selects_an_epoch_by_validation_accuracy(tmp_path: Path) -> None:
    data = small_data(window=SIDE, selection="paper-val")
    accuracy = {}
    for name, chosen in (("last", small_data(window=SIDE)), ("paper-val", data)):
        method = fitted(tmp_path / name, chosen, epochs=4, learning_rate=0.02)
        accuracy[name] = (method.predict(data, data.validation) == data.validation_targets).mean()
    assert accuracy["paper-val"] >= accuracy["last"]


@pytest.mark.parametrize(
    "protocol", [{"window": 7}, {"window": SIDE, "modalities": ("hsi",)}], ids=["window", "modalities"]
)
def test_predicting_other_windows_than_those_of_the_fit_is_refused(
    protocol: dict[str, Any], data: SceneDataModule, tmp_path: Path
) -> None:
    method = fitted(tmp_path, data)
    with pytest.raises(ConfigError, match="BDGF was fitted to windows of 5 with channels hsi 5, lidar 2"):
        method.predict(small_data(**protocol), data.query[:3])


# Saved networks


def test_a_saved_network_predicts_without_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three modalities, not in alphabetical order."""
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "sar": 3, "dsm": 1})
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    data = SceneDataModule(scene, DataConfig(window=SIDE))
    options = {"components": 3, "epochs": 8, "learning_rate": 0.02}
    method = fitted(tmp_path, data, **options)
    pixels = data.query[::6]
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    method.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "cache")
    loaded = cheap(tmp_path, **options)
    loaded.load(tmp_path / "saved")
    assert same(weights(loaded.network), weights(method.network))
    assert loaded.parameter_counts() == method.parameter_counts()
    again = SceneDataModule(scene, DataConfig(window=SIDE))
    np.testing.assert_array_equal(loaded.predict(again, pixels), expected)
    assert not (tmp_path / "cache" / "pretraining").exists()


# The cards


def resolved() -> Iterator[tuple[str, str, BdgfConfig]]:
    for name in CARDS:
        for budget in ("smoke", "quick", "paper"):
            yield name, budget, BdgfConfig.model_validate(resolve_config(method_card(name), "default", budget))


def test_cards_of_single_branches_differ_from_bdgf_in_the_branches_only() -> None:
    """So that they share its pretraining and its features."""
    found = {(name, budget): config.model_dump() for name, budget, config in resolved()}
    for (name, budget), config in found.items():
        branches = BRANCHES if name == "bdgf" else (name.removeprefix("bdgf-"),)
        assert config == {**found["bdgf", budget], "branches": branches}


def test_every_card_states_that_it_is_our_reading() -> None:
    for name in CARDS:
        card = method_card(name)
        assert "our reading" in card.title
        assert "our reading" in card.reference
        assert card.uses_unlabelled
        assert "mask-none" in card.variants, "the error about a single modality names it"


def test_the_variants_change_the_documented_settings() -> None:
    card = method_card("bdgf")
    changes = {name: variant.config for name, variant in card.variants.items()}
    assert [changes[f"mask-{rule}"]["mask_rule"] for rule in ("none", "fixed", "gradient")] == [
        "none",
        "fixed",
        "gradient",
    ]
    mutual_terms = ("entropy_weight", "similarity_weight", "divergence_weight")
    assert changes["independent"] == {**dict.fromkeys(mutual_terms, 0.0), "unlabelled_windows": 0}
    assert changes["labelled"] == {"unlabelled_windows": 0}
    assert changes["as-named"] == {"unlabelled_windows": 0, "divergence_weight": 0.0}
    assert resolve_config(card, "default", "quick")["mask_rule"] == "adaptive"


def test_the_budget_paper_has_the_documented_sizes_and_is_the_largest() -> None:
    """20,000 to 50,000 steps of 128 windows on a U-Net of 64, 128 and 256 channels, features of three timesteps."""
    found = {budget: config for name, budget, config in resolved() if name == "bdgf"}
    paper = found["paper"]
    steps = paper.pretrain_epochs * paper.pretrain_windows // paper.pretrain_batch
    assert 20_000 <= steps <= 50_000
    assert (paper.base, paper.multipliers, paper.blocks, paper.pretrain_batch) == (64, (1, 2, 4), 2, 128)
    assert (paper.components, paper.timesteps, paper.width) == (10, (50, 150, 250), 64)
    assert (paper.mask_least, paper.mask_most, paper.mask_temperature, paper.mask_decay) == (0.0, 0.75, 0.1, 0.99)
    budgets = (found["smoke"], found["quick"], paper)
    work = [config.pretrain_epochs * config.pretrain_windows * config.base for config in budgets]
    assert work == sorted(set(work))
