"""Stage 2 of BDGF: features, mutual learning, prediction, saved networks, and the cards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.bdgf_helpers import SIDE, cheap
from helpers.method_helpers import small_data
from helpers.network_helpers import random_windows, same, silent, weights
from helpers.tiny import striped_map, tiny_scene
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import ParameterCounts
from mmrs_bench.methods.bdgf.config import BdgfConfig
from mmrs_bench.methods.bdgf.features import EXTRACTION_BATCH, level_name
from mmrs_bench.methods.bdgf.guided_branches import BRANCHES
from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.methods.bdgf.module import PREDICTION_BATCH, GuidedLearner
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.bdgf.mutual_learning import mutual_loss
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

CARDS = ("bdgf", "bdgf-cnn", "bdgf-mamba", "bdgf-transformer")
CHANNELS = {"hsi": 5, "lidar": 2}
LEVELS = (8, 4)
BATCH = 6
SIZES: dict[str, Any] = {"base": 4, "multipliers": (1, 2), "blocks": 1}


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


def learner(**changes: Any) -> GuidedLearner:
    options = {**SIZES, "timesteps": (50,), "width": 8, "dropout": 0.0, **changes}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = GuidedLearner(CHANNELS, 4, SIDE, **options)
    silent(made)
    return made


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(BATCH, count, SIDE, SIDE, generator=generator) for count in LEVELS]
    target = torch.randint(4, (BATCH,), generator=generator)
    return {"windows": random_windows(CHANNELS, BATCH, SIDE), "features": features, "target": target}


# Features


def test_training_uses_features_that_are_aligned_with_its_windows(
    data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of a stand-in denoiser are the windows; both stay equal through cache, loader and symmetries."""

    def echo(self: MultimodalDenoiser, windows: dict[str, Tensor], **options: Any) -> list[Tensor]:
        return [tiled(windows, count) for count in self.feature_channels]

    def tiled(windows: dict[str, Tensor], count: int) -> Tensor:
        return torch.cat(list(windows.values()), dim=1)[:, torch.arange(count) % 7]

    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "echoes"))
    monkeypatch.setattr(MultimodalDenoiser, "decoder_features", echo)
    for symmetries in (True, False):
        for served in fitted(tmp_path, data, symmetries=symmetries).loaders(data).train:
            for level in served["features"]:
                assert torch.equal(level, tiled(served["windows"], level.shape[1]).half().float())
            plain = data.gatherer(torch.device("cpu")).gather(served["pixel"])
            assert same(plain, served["windows"]) != symmetries


def test_features_of_a_pixel_do_not_depend_on_other_pixels(data: SceneDataModule, tmp_path: Path) -> None:
    """To the last bit, in another order and for a single pixel."""
    method = fitted(tmp_path, data)
    features = method._features(data)
    pixels = np.arange(EXTRACTION_BATCH + 7)
    all_at_once, reversed_order = features.compute(pixels), features.compute(pixels[::-1].copy())
    single = features.compute(pixels[9:10])
    stored = features.load_or_extract(pixels).read(pixels[::-1])
    for name, values in all_at_once.items():
        assert torch.equal(values, reversed_order[name].flip(0))
        assert torch.equal(values[9:10], single[name])
        assert torch.equal(stored[name], values.half().flip(0))


def test_branches_shots_and_draws_share_the_features(
    data: SceneDataModule, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> set[Path]:
        return {path for path in (cache / "features").iterdir() if path.is_dir()}

    fitted(tmp_path, data)
    before = folders()
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
    assert folders() == before
    for options in ({"timesteps": (60,)}, {"seed": 1}):
        known = folders()
        fitted(tmp_path, data, **options)
        assert len(folders() - known) == 1, options


# The training step


def part_of(given: dict[str, Any], part: slice) -> dict[str, Any]:
    windows = {name: x[part] for name, x in given["windows"].items()}
    return {"windows": windows, "features": [x[part] for x in given["features"]], "target": given["target"][part]}


@pytest.mark.parametrize("labelled", [BATCH, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"entropy_weight": 2.0, "similarity_weight": 0.0},
        {"entropy_weight": 0.0, "similarity_weight": 3.0, "divergence_weight": 0.7},
        {"branches": ("mamba", "cnn")},
        {"branches": ("transformer",)},
    ],
)
def test_the_loss_is_the_mutual_loss_and_unlabelled_windows_count_in_the_mutual_terms_only(
    changes: dict[str, Any], labelled: int
) -> None:
    made, given = learner(**changes).eval(), batch()
    seen = slice(None) if len(changes.get("branches", BRANCHES)) > 1 else slice(labelled)
    outputs = list(made.outputs(*list(part_of(given, seen).values())[:2]).values())
    expected = mutual_loss(outputs, given["target"][:labelled], **made.weights).total
    some = part_of(given, slice(labelled))
    if labelled < BATCH:
        some["unlabelled"] = part_of(given, slice(labelled, None))
    with torch.no_grad():
        torch.testing.assert_close(made.training_step(some, 7), expected)


def test_windows_without_features_get_those_of_the_denoiser(tmp_path: Path) -> None:
    """To the precision of the cache; also unlabelled and validation windows, without gradient and in training mode."""
    data = small_data(window=SIDE, selection="paper-val")
    method = fitted(tmp_path, data, dropout=0.0, symmetries=False)
    ((cached, *_), (validated, *_)) = method.loaders(data)
    made = method.module.train()
    silent(made)
    plain = {**cached, "unlabelled": {"windows": cached["unlabelled"]["windows"]}}
    del plain["features"]
    assert not made.denoiser.training
    torch.testing.assert_close(made.training_step(plain, 0), made.training_step(cached, 0), atol=2e-2, rtol=2e-3)
    made.training_step(plain, 0).backward()
    assert all(p.grad is None for p in made.denoiser.parameters())
    for served in (cached, validated):
        torch.testing.assert_close(made.features(served["windows"]), served["features"], atol=1e-2, rtol=2e-3)


def test_unlabelled_windows_are_in_the_scope_and_depend_on_draw_epoch_and_step(tmp_path: Path) -> None:
    """All draws share one pool and its features; each step of each draw uses other windows of it."""
    data = small_data(5, window=SIDE, unlabelled="train-blocks", split="block-v1")
    pools, draws = [], []
    for draw in (0, 1):
        method = fitted(tmp_path, data, draw=draw, mask_rule="none")
        loader = method.loaders(data).train
        pools.append(method._unlabelled_pool(data).tolist())
        draws.append([batch["unlabelled"]["pixel"].tolist() for _ in range(2) for batch in loader])
        # Addressed as in earlier versions, so that their results can be repeated.
        generator = torch_generator("unlabelled windows", draw, 0, 1, 0)
        first = torch.randint(12, (3,), generator=generator)
        assert draws[-1][len(loader)] == [pools[-1][place] for place in first]
    assert pools[0] == pools[1]
    assert len(pools[0]) == 12
    assert set(pools[0]) <= set(data.unlabelled.tolist())
    assert len({tuple(pixels) for pixels in draws[0] + draws[1]}) > len(draws[0])


@pytest.mark.parametrize("changes", [{"unlabelled_windows": 0}, {"branches": ("cnn",)}])
def test_without_mutual_terms_there_are_no_unlabelled_pixels(
    changes: dict[str, Any], data: SceneDataModule, tmp_path: Path
) -> None:
    assert not len(cheap(tmp_path, **changes)._unlabelled_pool(data))


def test_the_parts_of_the_loss_are_logged_and_a_single_branch_has_no_mutual_terms() -> None:
    for branches in (BRANCHES, *((branch,) for branch in BRANCHES)):
        made, parts = learner(branches=branches), {}
        made.log_dict = lambda values, parts=parts, **options: parts.update(values)
        with torch.no_grad():
            made.training_step(batch(), 0)
        mutual = ("entropy", "similarity", "divergence") if branches == BRANCHES else ()
        assert set(parts) == {"total", "cross_entropy", *mutual}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


def test_gradients_of_independent_branches_equal_those_of_single_branches() -> None:
    variant = method_card("bdgf").variants["independent"].config
    made, given = learner(**{name: value for name, value in variant.items() if name.endswith("weight")}), batch()
    made.training_step(given, 0).backward()
    together = gradients(made)
    for branch in BRANCHES:
        made.zero_grad()
        output = made.ensemble.branches[branch](given["windows"], given["features"])
        F.cross_entropy(output.logits, given["target"]).backward()
        single = gradients(made)
        assert single
        for name, gradient in single.items():
            torch.testing.assert_close(together.pop(name), gradient)
    assert not together, "other parameters have a gradient"
    mutual = learner()
    mutual.training_step(given, 0).backward()
    assert any("compare" in name for name in gradients(mutual))


def test_only_the_branches_are_optimised() -> None:
    made = learner(learning_rate=0.02, weight_decay=0.3)
    made.trainer = L.Trainer(max_epochs=7, logger=False, enable_checkpointing=False)
    optimizers = made.configure_optimizers()
    (group,) = optimizers["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"], optimizers["lr_scheduler"].T_max) == (0.02, 0.3, 7)
    assert {id(p) for p in group["params"]} == {id(p) for p in made.ensemble.parameters()}


# The pretrained denoiser


def test_the_denoiser_is_read_from_a_checkpoint_once(tmp_path: Path) -> None:
    own = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    saved, given = [tmp_path / "stage-1.ckpt", tmp_path / "stage-2.ckpt"], batch()
    pretrainer = MultimodalPretrainer(CHANNELS, SIDE, **SIZES)
    own.strategy.connect(pretrainer)
    own.save_checkpoint(saved[0])
    made = learner(pretrained=str(saved[0]))
    assert same(weights(made.denoiser), weights(pretrainer.denoiser))
    with pytest.raises(ConfigError, match="denoiser has base 4, but GuidedLearner was built with base 8"):
        learner(pretrained=str(saved[0]), base=8)
    own.strategy.connect(made)
    own.save_checkpoint(saved[1])
    saved[0].unlink()
    again = GuidedLearner.load_from_checkpoint(saved[1])
    assert torch.equal(again.eval()(given["windows"]), made.eval()(given["windows"]))
    with pytest.raises(ConfigError, match="GuidedLearner has no pretrained denoiser; build it with pretrained=PATH"):
        learner()(given["windows"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branches": ("rnn",)}, "branches are rnn; use at least one of cnn, mamba, transformer"),
        ({"branches": ()}, "branches are none"),
        ({"width": 6}, "width 6 is not a positive multiple of 4"),
        ({"timesteps": (1000,)}, r"timesteps are \[1000\]; use at least one in 0..999"),
        ({"dropout": 2.0}, "dropout probability"),
    ],
)
def test_a_module_with_impossible_hyperparameters_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner(**changes)


# Fitting and predicting


def test_fitting_does_not_change_the_denoiser(data: SceneDataModule, tmp_path: Path) -> None:
    method = fitted(tmp_path, data, weight_decay=0.5)
    method.predict(data, data.query[:9])
    assert same(weights(method.pretrained.denoiser), weights(method.module.denoiser))
    counts = [sum(p.numel() for p in part.parameters()) for part in (method.module, method.module.ensemble)]
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
            outputs = method.module.ensemble(windows, levels)
        mean = sum(output.logits.softmax(dim=1) for output in outputs.values()) / 3
        top = mean[0].sort(descending=True).values
        assert target == int(mean.argmax()) or float(top[0] - top[1]) < 1e-5
    assert pixels.size > PREDICTION_BATCH


def test_windows_of_another_side_than_those_of_the_fit_are_refused(data: SceneDataModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^BDGF was fitted to windows of 5 .* but is to classify windows of 7"):
        fitted(tmp_path, data).predict(small_data(window=7), data.query[:3])


def test_it_learns_a_scene_of_blocks(data: SceneDataModule, tmp_path: Path) -> None:
    method = fitted(tmp_path, data, epochs=20, learning_rate=0.02)
    assert (method.predict(data, data.query[::4]) == data.query_targets[::4]).mean() > 0.8


# Saved networks


def test_a_saved_network_predicts_without_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three modalities, not in alphabetical order."""
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 5, "sar": 3, "dsm": 1})
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    data = SceneDataModule(scene, DataConfig(window=SIDE))
    options = {"components": 3, "epochs": 8, "learning_rate": 0.02}
    method, pixels = fitted(tmp_path, data, **options), data.query[::6]
    expected = method.predict(data, pixels)
    assert len(np.unique(expected)) > 1
    method.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "cache")
    loaded = cheap(tmp_path, **options)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(data, pixels), expected)
    assert not (tmp_path / "cache" / "pretraining").exists()


# The cards


def resolved(name: str, budget: str) -> BdgfConfig:
    return BdgfConfig.model_validate(resolve_config(method_card(name), "default", budget))


@pytest.mark.parametrize("name", CARDS)
def test_cards_state_that_they_are_our_reading_and_differ_in_the_branches_only(name: str) -> None:
    """So that they share its pretraining and its features."""
    branches = BRANCHES if name == "bdgf" else (name.removeprefix("bdgf-"),)
    for budget in ("smoke", "quick", "paper"):
        assert resolved(name, budget) == resolved("bdgf", budget).model_copy(update={"branches": branches})
    card = method_card(name)
    assert "our reading" in card.title
    assert "our reading" in card.reference
    assert card.uses_unlabelled
    assert "mask-none" in card.variants, "the error about a single modality names it"


def test_the_variants_change_the_documented_settings() -> None:
    changes = {name: variant.config for name, variant in method_card("bdgf").variants.items()}
    assert all(changes[f"mask-{rule}"]["mask_rule"] == rule for rule in ("none", "fixed", "gradient"))
    mutual_terms = ("entropy_weight", "similarity_weight", "divergence_weight")
    assert changes["independent"] == {**dict.fromkeys(mutual_terms, 0.0), "unlabelled_windows": 0}
    assert changes["labelled"] == {"unlabelled_windows": 0}
    assert changes["as-named"] == {"unlabelled_windows": 0, "divergence_weight": 0.0}


def test_the_budget_paper_has_the_documented_number_of_steps_and_is_the_largest() -> None:
    budgets = [resolved("bdgf", budget) for budget in ("smoke", "quick", "paper")]
    paper = budgets[-1]
    assert paper.pretrain_epochs * paper.pretrain_windows // paper.pretrain_batch == 2_000
    work = [config.pretrain_epochs * config.pretrain_windows * config.base for config in budgets]
    assert work == sorted(set(work))
