"""Stage 2 of BDGF: registered features, mutual learning, prediction, saved networks, and the cards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
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
from mmrs_bench.errors import ConfigError, DataError, TrainingError
from mmrs_bench.methods.base import ParameterCounts
from mmrs_bench.methods.bdgf.features import EXTRACTED_AT_ONCE, KeptFeatures, level_name
from mmrs_bench.methods.bdgf.guided_branches import BRANCHES, GuidedEnsemble
from mmrs_bench.methods.bdgf.method import NAME, Bdgf, BdgfConfig, Guided, GuidedLearner
from mmrs_bench.methods.bdgf.multimodal_ddpm import FEATURE_TIMESTEPS, MultimodalDenoiser
from mmrs_bench.methods.bdgf.pretraining import DenoisingConfig
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import description_file, weights_file
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
def _one_pretraining_for_all(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the cells of a run share it."""
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(cache))


def fitted(folder: Path, data: SceneDataModule, **options: Any) -> Bdgf:
    method = cheap(folder, **options)
    method.pretrain(data)
    method.fit(data)
    return method


def learner(config: BdgfConfig) -> GuidedLearner:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        ensemble = GuidedEnsemble(CHANNELS, LEVELS, 4, branches=config.branches, width=config.width)
    made = GuidedLearner(ensemble, config, lambda pixels: [])
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


def test_features_are_turned_as_their_windows_are() -> None:
    """All eight symmetries, on windows that none of them leaves as they are."""
    data = small_data(window=SIDE)
    pixels = np.array([0, 39, 200, 717, 1439])
    gatherer = data.gatherer(torch.device("cpu"))
    kept = KeptFeatures(Windows(data), pixels, gatherer)  # type: ignore[arg-type]
    asked = torch.tensor([717, 0, 1439, 717])
    for symmetry in range(8):
        turns = torch.full((4,), symmetry)
        for found, window in zip(kept.read(asked, turns), gatherer.gather(asked, turns).values(), strict=True):
            assert found.dtype == torch.float32
            assert torch.equal(found, window.half().float())
            assert symmetry == 0 or not torch.equal(found, kept.read(asked)[0])
    mixed = torch.tensor([3, 0, 6, 5])
    windows = gatherer.gather(asked, mixed).values()
    assert all(torch.equal(a, b.half().float()) for a, b in zip(kept.read(asked, mixed), windows, strict=True))


def test_training_sees_features_that_lie_on_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a denoiser whose features are the windows, both have to stay equal through cache, loader and symmetries."""

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
    data = small_data(window=SIDE)
    for symmetries in (True, False):
        seen.clear()
        fitted(tmp_path, data, symmetries=symmetries)
        assert seen == [not symmetries] * 2


def test_features_of_a_pixel_do_not_hang_on_the_others(tmp_path: Path) -> None:
    """Bit by bit, in other company, in another order and alone; and they are the denoiser's."""
    data = small_data(window=SIDE)
    method = fitted(tmp_path, data)
    features = method._features(data)
    pixels = np.arange(EXTRACTED_AT_ONCE + 7)
    all_at_once, turned = features.computed(pixels), features.computed(pixels[::-1].copy())
    alone = features.computed(pixels[9:10])
    windows = data.gatherer(torch.device("cpu")).gather(torch.from_numpy(pixels[:8]))
    direct = method._network.denoiser.decoder_features(windows, timesteps=(50,), seed=0)
    for level, name in enumerate(features.shapes):
        assert torch.equal(all_at_once[name], turned[name].flip(0))
        assert torch.equal(all_at_once[name][9:10], alone[name])
        torch.testing.assert_close(all_at_once[name][:8], direct[level])
        assert all_at_once[name].shape[1:] == features.shapes[name]
    stored = features.of(pixels).read(pixels[::-1])
    for name, values in all_at_once.items():
        assert torch.equal(stored[name], values.half().flip(0))


def feature_folders(cache: Path) -> set[str]:
    return {path.name for path in (cache / "features").iterdir() if path.is_dir()}


def test_branches_shots_and_draws_share_the_features(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(tmp_path, small_data(window=SIDE))
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
        fitted(tmp_path, small_data(window=SIDE), **options)
        assert len(feature_folders(cache) - known) == 1, options


# The training step


def slow_loss(outputs: dict[str, Any], target: Tensor, config: BdgfConfig) -> float:
    """Sample after sample, pair after pair; samples without a target come last."""
    names, total, right = list(outputs), 0.0, 0.0
    count = len(outputs[names[0]].logits)
    for b in range(count):
        p = {name: outputs[name].logits[b].double().softmax(0) for name in names}
        z = {name: outputs[name].features[b].double() for name in names}
        entropy = {name: -float((p[name] * p[name].log()).sum()) for name in names}
        for i, one in enumerate(names):
            if b < len(target):
                right -= float(p[one][int(target[b])].log()) / len(target)
            for j, other in enumerate(names):
                if i < j:
                    total += config.entropy_weight * (entropy[one] - entropy[other]) ** 2
                    cosine = float(z[one] @ z[other] / (z[one].norm() * z[other].norm()))
                    total += config.similarity_weight * (1 - cosine)
                if i != j:
                    total += config.divergence_weight * float((p[other] * (p[other] / p[one]).log()).sum())
    return right + total / count


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
def test_the_step_is_that_of_a_loop(changes: dict[str, Any]) -> None:
    config = settings(**changes)
    made, given = learner(config).eval(), batch()
    with torch.no_grad():
        found = made.training_step(given, 0)
        outputs = made.ensemble(given["windows"], given["features"])
        assert float(found) == pytest.approx(slow_loss(outputs, given["target"], config), rel=1e-5)


def test_unlabelled_windows_count_in_the_mutual_terms_only() -> None:
    config, given = settings(divergence_weight=0.7), batch()
    made, asked = learner(config).eval(), []

    def unlabelled(epoch: int, step: int) -> Guided:
        asked.append((epoch, step))
        return Guided({name: x[4:] for name, x in given["windows"].items()}, [x[4:] for x in given["features"]])

    made._unlabelled = unlabelled
    labelled = {
        "windows": {name: x[:4] for name, x in given["windows"].items()},
        "features": [x[:4] for x in given["features"]],
        "target": given["target"][:4],
    }
    with torch.no_grad():
        found = made.training_step(labelled, 7)
        outputs = made.ensemble(given["windows"], given["features"])
        assert float(found) == pytest.approx(slow_loss(outputs, given["target"][:4], config), rel=1e-5)
    assert asked == [(0, 7)]


@pytest.mark.parametrize("shots", [2, 5])
def test_unlabelled_windows_are_of_the_scope_and_addressed_by_step(
    shots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pool for all draws and shots, which share its features; in it, other windows at every step of every draw."""
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
        pools.append(method._pool(data).tolist())
        draws.append([seen[-1](epoch, step).windows["hsi"] for epoch, step in ((0, 0), (0, 1), (1, 0), (0, 0))])
    assert pools[0] == pools[1]
    assert len(pools[0]) == 12
    assert set(pools[0]) <= set(data.unlabelled.tolist())
    for windows in draws:
        assert torch.equal(windows[0], windows[3])
        assert not torch.equal(windows[0], windows[1])
        assert not torch.equal(windows[0], windows[2])
    assert not torch.equal(draws[0][0], draws[1][0])


@pytest.mark.parametrize("changes", [{"unlabelled_windows": 0}, {"branches": ("cnn",)}])
def test_who_has_nothing_to_agree_on_computes_no_features_of_unlabelled_pixels(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    assert not len(cheap(tmp_path, **changes)._pool(small_data(window=SIDE)))


def logged(config: BdgfConfig) -> dict[str, float]:
    made, parts = learner(config), {}
    made.log_dict = lambda values, **options: parts.update(values)  # type: ignore[method-assign,assignment]
    made.training_step(batch(), 0)
    return {name: float(value.detach()) for name, value in parts.items()}


def test_the_parts_of_the_loss_are_logged_and_a_single_branch_has_none_of_mutual_learning() -> None:
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


def test_independent_branches_learn_as_if_they_were_alone() -> None:
    variant = method_card("bdgf").variants["independent"].config
    made, given = learner(settings(**variant)), batch()
    made.training_step(given, 0).backward()
    together = gradients(made.ensemble)
    for branch in BRANCHES:
        made.zero_grad()
        output = made.ensemble.branches[branch](given["windows"], given["features"])
        F.cross_entropy(output.logits, given["target"]).backward()
        alone = gradients(made.ensemble)
        assert alone
        for name, gradient in alone.items():
            torch.testing.assert_close(together.pop(name), gradient)
    assert not together, "something else is taught"
    mutual = learner(settings())
    mutual.training_step(given, 0).backward()
    assert any("compare" in name for name in gradients(mutual.ensemble))


def test_a_branch_alone_ends_alike_under_any_weights_of_mutual_learning(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    found = [
        weights(fitted(tmp_path, data, name="bdgf-cnn", **changes)._network)
        for changes in ({}, {"entropy_weight": 5.0, "similarity_weight": 5.0, "divergence_weight": 5.0})
    ]
    assert same(*found)
    together = [
        weights(fitted(tmp_path, data, **changes)._network)
        for changes in ({}, {"entropy_weight": 5.0}, {"similarity_weight": 5.0}, {"divergence_weight": 5.0})
    ]
    assert all(not same(together[0], other) for other in together[1:])


def test_optimiser_and_schedule_are_those_of_the_settings() -> None:
    made = learner(settings(learning_rate=0.02, weight_decay=0.3, epochs=7))
    optimizers = made.configure_optimizers()
    (group,) = optimizers["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
    assert optimizers["lr_scheduler"].T_max == 7
    assert {id(p) for p in group["params"]} == {id(p) for p in made.ensemble.parameters()}


def test_a_loss_that_is_no_number_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data(window=SIDE)
    method = cheap(tmp_path)
    method.pretrain(data)
    real = KeptFeatures.read
    monkeypatch.setattr(KeptFeatures, "read", lambda *args: [level / 0 for level in real(*args)])
    with pytest.raises(TrainingError, match=r"^mutual learning: the loss is nan at step 0"):
        method.fit(data)


# Fitting and predicting


def test_fitting_leaves_the_denoiser_as_it_was(tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    method = cheap(tmp_path, weight_decay=0.5)
    method.pretrain(data)
    before = weights(method._pretrained)
    method.fit(data)
    method.predict(data, data.query[:9])
    assert same(before, weights(method._pretrained))
    assert all(p.grad is None and not p.requires_grad for p in method._network.denoiser.parameters())
    counts = [sum(p.numel() for p in part.parameters()) for part in (method._network, method._network.ensemble)]
    assert method.parameter_counts() == ParameterCounts(*counts)
    assert counts[0] > counts[1] > 0


def test_the_prediction_is_the_ensembles(tmp_path: Path) -> None:
    """The class with the largest mean of softmaxes, window after window."""
    data = small_data(window=SIDE)
    method = fitted(tmp_path, data)
    pixels = data.query[:: max(1, data.query.size // 70)]
    found = method.predict(data, pixels)
    alone = method.branch_targets(data, pixels)
    assert tuple(alone) == BRANCHES
    store = method._features(data).of(pixels)
    for place, (pixel, target) in enumerate(zip(pixels, found, strict=True)):
        levels = [store.read(np.array([pixel]))[level_name(level)].float() for level in range(2)]
        windows = data.gatherer(torch.device("cpu")).gather(torch.tensor([pixel]))
        with torch.no_grad():
            outputs = method._network.ensemble(windows, levels)
        mean = sum(output.logits.softmax(dim=1) for output in outputs.values()) / 3
        top = mean[0].sort(descending=True).values
        assert target == int(mean.argmax()) or float(top[0] - top[1]) < 1e-5
        for kind, output in outputs.items():
            first, second = output.logits[0].sort(descending=True).values[:2]
            assert alone[kind][place] == int(output.logits.argmax()) or float(first - second) < 1e-5
    assert pixels.size > 64, "all came in one part"


def test_it_learns_a_scene_of_blocks(tmp_path: Path) -> None:
    data = small_data(2, window=SIDE)
    method = fitted(tmp_path, data, epochs=20, learning_rate=0.02)
    assert (method.predict(data, data.query[::4]) == data.query_targets[::4]).mean() > 0.8


def test_predictions_do_not_hang_on_what_the_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = small_data(window=SIDE), {"epochs": 8, "learning_rate": 0.02}
    pixels = data.query[::6]
    method = fitted(tmp_path, data, **settings)
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "empty"))
    for some in (pixels[5::31], pixels[::-1], pixels[:0]):
        found = method.predict(data, some)
        assert np.array_equal(found, expected[np.searchsorted(pixels, some)])
    again = fitted(tmp_path, data, **settings)
    assert np.array_equal(again.predict(data, pixels), expected)


def test_paper_val_keeps_an_epoch_by_the_validation_pixels(tmp_path: Path) -> None:
    data = small_data(window=SIDE, selection="paper-val")
    accuracy = {}
    for name, chosen in (("last", small_data(window=SIDE)), ("paper-val", data)):
        method = fitted(tmp_path / name, chosen, epochs=4, learning_rate=0.02)
        accuracy[name] = (method.predict(data, data.validation) == data.validation_targets).mean()
    assert accuracy["paper-val"] >= accuracy["last"]


@pytest.mark.parametrize(
    "protocol", [{"window": 7}, {"window": SIDE, "modalities": ("hsi",)}], ids=["window", "modalities"]
)
def test_another_input_than_that_it_was_fitted_to_is_refused(protocol: dict[str, Any], tmp_path: Path) -> None:
    data = small_data(window=SIDE)
    method = fitted(tmp_path, data)
    with pytest.raises(ConfigError, match="BDGF was fitted to windows of 5 with channels hsi 5, lidar 2"):
        method.predict(small_data(**protocol), data.query[:3])


# Saved networks


def test_a_fitted_model_needs_neither_pretraining_nor_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three modalities, not in the order of the alphabet."""
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
    assert same(weights(loaded._network), weights(method._network))
    assert loaded.parameter_counts() == method.parameter_counts()
    again = SceneDataModule(scene, DataConfig(window=SIDE))
    np.testing.assert_array_equal(loaded.predict(again, pixels), expected)
    assert not (tmp_path / "cache" / "pretraining").exists()
    for other in ({"width": 32}, {"base": 8}, {"mask_rule": "none"}, {"timesteps": (60,)}):
        with pytest.raises(DataError, match=f"was saved with other settings .{next(iter(other))}"):
            cheap(tmp_path, **{**options, **other}).load(tmp_path / "saved")


@pytest.mark.parametrize("damaged", [description_file, weights_file])
def test_damaged_files_are_one_clear_line(damaged: Any, tmp_path: Path) -> None:
    fitted(tmp_path, small_data(window=SIDE)).save(tmp_path / "saved")
    damaged(tmp_path / "saved", NAME).write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"fit and save it again$") as caught:
        cheap(tmp_path).load(tmp_path / "saved")
    assert "\n" not in str(caught.value)


# The cards


def resolved() -> Iterator[tuple[str, str, BdgfConfig]]:
    for name in CARDS:
        for budget in ("smoke", "quick", "paper"):
            yield name, budget, BdgfConfig.model_validate(resolve_config(method_card(name), "default", budget))


def test_a_branch_alone_is_bdgf_with_fewer_branches() -> None:
    """So that both use the same pretraining and the same features, and can be compared."""
    found = {(name, budget): config.model_dump() for name, budget, config in resolved()}
    for (name, budget), config in found.items():
        branches = BRANCHES if name == "bdgf" else (name.removeprefix("bdgf-"),)
        assert config == {**found["bdgf", budget], "branches": branches}


def test_every_card_says_that_it_is_our_reading() -> None:
    for name in CARDS:
        card = method_card(name)
        assert "our reading" in card.title
        assert "our reading" in card.reference
        assert card.uses_unlabelled
        assert "mask-none" in card.variants, "which the message about one modality names"


def test_the_variants_are_what_they_say() -> None:
    card = method_card("bdgf")
    changes = {name: variant.config for name, variant in card.variants.items()}
    assert {name: change.get("mask_rule") for name, change in changes.items() if name.startswith("mask-")} == {
        "mask-none": "none",
        "mask-fixed": "fixed",
        "mask-gradient": "gradient",
    }
    weights_of_mutual_learning = {"entropy_weight", "similarity_weight", "divergence_weight"}
    assert changes["independent"] == {**dict.fromkeys(weights_of_mutual_learning, 0.0), "unlabelled_windows": 0}
    assert changes["labelled"] == {"unlabelled_windows": 0}
    assert changes["as-named"] == {"unlabelled_windows": 0, "divergence_weight": 0.0}
    assert resolve_config(card, "default", "quick")["mask_rule"] == "adaptive"


def test_paper_is_the_documented_size_and_budgets_grow() -> None:
    """20,000 to 50,000 steps of 128 windows on a U-Net of 64, 128 and 256 channels, features of three timesteps."""
    found = {budget: config for name, budget, config in resolved() if name == "bdgf"}
    paper = found["paper"]
    steps = paper.pretrain_epochs * paper.pretrain_windows // paper.pretrain_batch
    assert 20_000 <= steps <= 50_000
    assert (paper.base, paper.multipliers, paper.blocks, paper.pretrain_batch) == (64, (1, 2, 4), 2, 128)
    assert (paper.components, paper.timesteps, paper.width) == (10, FEATURE_TIMESTEPS, 64)
    assert (paper.mask_least, paper.mask_most, paper.mask_temperature, paper.mask_decay) == (0.0, 0.75, 0.1, 0.99)
    work = [
        config.pretrain_epochs * config.pretrain_windows * config.base
        for config in (found["smoke"], found["quick"], paper)
    ]
    assert work == sorted(set(work))


def test_the_defaults_are_those_of_the_card() -> None:
    config = resolve_config(method_card("bdgf"), "default", "paper")
    assert BdgfConfig() == BdgfConfig.model_validate(config)
    assert set(config) == set(BdgfConfig.model_fields)
    assert set(DenoisingConfig.model_fields) < set(config)
