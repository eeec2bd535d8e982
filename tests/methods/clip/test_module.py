"""Training steps, optimisers and schedules of both stages against slow loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.clip_helpers import optimizer_of, pixels_of, slow_crops, small_config, text_file
from helpers.network_helpers import random_windows, silent, without_gradient
from torch import Tensor

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.clip.alignment import class_aware_loss, diagonal_loss
from mmrs_bench.methods.clip.config import DiffClipConfig
from mmrs_bench.methods.clip.masked_vit import MaskedDiffusionTransformer, VisibleTokens
from mmrs_bench.methods.clip.method import clip_network
from mmrs_bench.methods.clip.module import (
    LanguageAlignedClassifier,
    MaskedDiffusionPretrainer,
    lr_schedule,
    visible_count,
)
from mmrs_bench.methods.toolkit.classification import VALIDATION_METRIC
from mmrs_bench.randomness import torch_generator

CHANNELS = {"hsi": 5, "lidar": 1, "sar": 2}
MODALITIES: list[dict[str, int]] = [{"hsi": 5}, {"hsi": 5, "sar": 4}, {"hsi": 5, "lidar": 1, "dsm": 2}]
SIDE, BATCH, SEED, DRAW = 5, 6, 3, 4
TARGET = torch.tensor([2, 0, 2, 3, 3, 2])
NAMES = ("Road", "Water", "Apple trees", "Bare soil")


def pretrainer(config: DiffClipConfig, channels: Mapping[str, int], *, seed: int = SEED) -> MaskedDiffusionPretrainer:
    sizes = {name: getattr(config, name) for name in ("width", "heads", "depth", "decoder_depth", "mlp_ratio")}
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = MaskedDiffusionTransformer(channels, SIDE, **sizes)
    module = MaskedDiffusionPretrainer(network, config, side=SIDE, seed=seed)
    silent(module)
    return module


def classifier(config: DiffClipConfig, *, seed: int = SEED, draw: int = DRAW) -> LanguageAlignedClassifier:
    """A module whose head is large enough for a difference to show in any readout."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        network = clip_network(config, CHANNELS, SIDE, NAMES)
        torch.nn.init.normal_(network.image.head.weight)
    module = LanguageAlignedClassifier(network, config, seed=seed, draw=draw)
    silent(module)
    return module


def batch_of(channels: Mapping[str, int]) -> dict[str, Any]:
    return {"pixel": torch.arange(BATCH), "windows": random_windows(channels, BATCH, SIDE), "target": TARGET}


# Stage 1


def slow_pretraining_loss(
    module: MaskedDiffusionPretrainer, config: DiffClipConfig, windows: Mapping[str, Tensor], *at: int
) -> float:
    """Window after window, modality after modality, pixel after pixel, in the order in which numbers are drawn."""
    generator = torch_generator("pretraining", *at)
    cropped = slow_crops(windows, config.pretrain_crop, generator)
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    n, v = SIDE * SIDE, math.floor(SIDE * SIDE * (1 - config.mask_ratio))
    read: dict[str, list[list[int]]] = {}
    write: dict[str, list[list[int]]] = {}
    for place, name in enumerate(windows):
        shuffles = torch.rand(BATCH, n, generator=generator).argsort(dim=1).tolist()
        write[name] = [shuffle[:v] for shuffle in shuffles]
        read[name] = write[name]
        if config.misplaced_tokens and place > 0:
            read[name] = [[shuffle.index(token) for token in range(v)] for shuffle in shuffles]
    noise = {name: torch.randn(BATCH, v, x.shape[1], generator=generator) for name, x in windows.items()}
    visible: dict[str, list[float]] = {name: [] for name in windows}
    masked: dict[str, list[float]] = {name: [] for name in windows}
    for i, t in enumerate(timesteps):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
        pixels = {name: x[0] for name, x in pixels_of(cropped, i).items()}
        noised = {name: torch.zeros(1, v, x.shape[1]) for name, x in windows.items()}
        for name, tokens_read in noised.items():
            for j, token in enumerate(read[name][i]):
                tokens_read[0, j] = math.sqrt(kept) * pixels[name][token] + math.sqrt(1 - kept) * noise[name][i, j]
        tokens = {
            name: VisibleTokens(torch.tensor([read[name][i]]), torch.tensor([write[name][i]])) for name in windows
        }
        predicted = module.network(noised, torch.tensor([t]), tokens)
        for name in windows:
            for token in range(n):
                error = float((predicted[name][0, token] - pixels[name][token]).square().mean())
                (visible if token in write[name][i] else masked)[name].append(error)
    return sum(
        sum(visible[name]) / len(visible[name]) + config.masked_weight * sum(masked[name]) / len(masked[name])
        for name in windows
    )


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize(
    "changes",
    [
        {"pretrain_crop": "none"},
        {"pretrain_crop": "joint", "mask_ratio": 0.5},
        {"pretrain_crop": "independent", "masked_weight": 0.6},
        {"misplaced_tokens": True, "masked_weight": 0.6},
    ],
    ids=["plain", "joint", "independent", "misplaced"],
)
def test_the_pretraining_loss_equals_that_of_a_loop(
    changes: dict[str, Any], channels: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(**changes)
    module = pretrainer(config, channels)
    module.eval()  # in training mode, a single window has other batch statistics than a batch
    monkeypatch.setattr(MaskedDiffusionPretrainer, "current_epoch", 2)
    batch = batch_of(channels)
    with torch.no_grad():
        expected = slow_pretraining_loss(module, config, batch["windows"], SEED, 2, 9)
        assert float(module.training_step(batch, 9)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize("misplaced", [False, True])
def test_pretraining_trains_every_parameter(misplaced: bool, channels: dict[str, int]) -> None:
    module = pretrainer(small_config(misplaced_tokens=misplaced), channels)
    module.training_step(batch_of(channels), 0).backward()
    assert without_gradient(module) == []
    assert all(values.requires_grad for values in module.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["hsi", "lidar", "dsm"])
def test_a_loss_that_is_not_finite_names_modality_and_step(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskedDiffusionPretrainer, "global_step", 17)
    module, batch = pretrainer(small_config(), MODALITIES[2]), batch_of(MODALITIES[2])
    batch["windows"][name][2, 0, 1, 3] = value
    with pytest.raises(TrainingError, match=rf"^pretraining: the loss of modality {name} is (nan|inf) at step 17;"):
        module.training_step(batch, 0)


@pytest.mark.parametrize(
    ("side", "ratio", "count"),
    [
        (11, 0.7, 36),
        (5, 0.95, 1),
        (5, 0.8, 5),  # 1 - 0.8 is less than 0.2 in floating point
        (5, 0.96, 1),
    ],
)
def test_the_visible_count_is_rounded_down_unless_it_is_whole(side: int, ratio: float, count: int) -> None:
    assert visible_count(side, ratio) == count


@pytest.mark.parametrize(("side", "ratio", "left"), [(1, 0.7, 0), (3, 0.95, 0), (5, 1e-17, 25)])
def test_masks_that_leave_no_pixel_or_every_pixel_visible_are_refused(side: int, ratio: float, left: int) -> None:
    with pytest.raises(ConfigError, match=rf"mask_ratio {ratio} leaves {left} of the {side**2} pixels of a window"):
        visible_count(side, ratio)


def test_the_pretraining_optimiser_is_adam_with_the_rate_and_decay_of_the_settings() -> None:
    optimizer = optimizer_of(pretrainer(small_config(pretrain_rate=0.02, pretrain_decay=0.3), MODALITIES[0]))
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.3)


# Stage 2


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("crop", ["none", "joint", "independent"])
@pytest.mark.parametrize("contrast", ["class", "diagonal"])
def test_the_contrastive_loss_equals_that_of_a_loop(
    contrast: str, crop: str, timestep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers depend on draw, seed, epoch and batch: first the coins of the crops, then the timesteps."""
    module = classifier(small_config(contrast=contrast, crop=crop, timestep=timestep, temperature=0.4))
    module.eval()  # in training mode, a single window has other batch statistics than a batch
    monkeypatch.setattr(LanguageAlignedClassifier, "current_epoch", 2)
    batch = batch_of(CHANNELS)
    generator = torch_generator("alignment", DRAW, SEED, 2, 9)
    windows = slow_crops(batch["windows"], crop, generator)
    t = torch.randint(1000, (BATCH,), generator=generator) if timestep == "random" else torch.zeros(BATCH).long()
    network = module.network
    with torch.no_grad():
        z = []
        for i in range(BATCH):
            image = network.image(network.image.embed_pixels(pixels_of(windows, i)), t[i : i + 1])[0]
            z.append([image @ text / image.norm() / text.norm() / 0.4 for text in network.texts()])
        loss = module.training_step(batch, 9)
    expected = (class_aware_loss if contrast == "class" else diagonal_loss)(torch.tensor(z), TARGET)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("stage", [MaskedDiffusionPretrainer, LanguageAlignedClassifier])
def test_steps_depend_on_seed_draw_epoch_and_batch_only(stage: type, monkeypatch: pytest.MonkeyPatch) -> None:
    config, batch = small_config(timestep="random", crop="joint"), batch_of(CHANNELS)

    def loss(*, epoch: int = 0, index: int = 0, **address: int) -> float:
        monkeypatch.setattr(stage, "current_epoch", epoch)
        pretraining = stage is MaskedDiffusionPretrainer
        module: Any = pretrainer(config, CHANNELS, **address) if pretraining else classifier(config, **address)
        torch.rand(3)
        return float(module.eval().training_step(batch, index).detach())

    others = [loss(seed=1), loss(epoch=1), loss(index=1)]
    if stage is LanguageAlignedClassifier:
        others.append(loss(draw=1))
    assert loss() == loss()
    assert len({loss(), *others}) == 1 + len(others)


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
@pytest.mark.parametrize("readout", ["class", "tokens"])
@pytest.mark.parametrize("contrast", ["class", "diagonal"])
def test_alignment_trains_every_parameter(contrast: str, readout: str, text: str, tmp_path: Path) -> None:
    tower = text_file(tmp_path, dict(zip(NAMES, "abcd", strict=True))) if text == "precomputed" else text
    config = small_config(contrast=contrast, readout=readout, text=tower, learn_positions=True)
    module = LanguageAlignedClassifier(clip_network(config, CHANNELS, SIDE, NAMES), config, seed=0, draw=0)
    silent(module)
    module.training_step(batch_of(CHANNELS), 0).backward()
    names = dict(module.named_parameters())
    assert without_gradient(module) == []
    assert sum(name.endswith(".positions") for name in names) == len(CHANNELS)
    assert "network.log_scale" in names
    assert ("network.texts.projection.weight" in names) == (text == "precomputed")
    assert "network.texts.embeddings" not in names, "the vectors of a frozen tower are trained"


def test_validation_logs_the_accuracy_of_clean_windows() -> None:
    module = classifier(small_config(timestep="random", crop="joint"))
    module.eval()
    logged: dict[str, float] = {}
    module.log = lambda name, value, **options: logged.update({name: float(value)})  # type: ignore[method-assign,assignment]
    windows = random_windows(CHANNELS, BATCH, SIDE)
    with torch.no_grad():
        zero = torch.zeros(1, dtype=torch.long)
        best = [int(module.network(pixels_of(windows, i), zero)[0].argmax()) for i in range(BATCH)]
        target = torch.tensor([*best[:4], (best[4] + 1) % 4, (best[5] + 2) % 4])
        module.validation_step({"windows": windows, "target": target}, 0)
    assert logged == {VALIDATION_METRIC: pytest.approx(4 / 6)}


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
def test_tokenizers_and_encoder_have_their_own_learning_rate(text: str, tmp_path: Path) -> None:
    tower = text_file(tmp_path, dict(zip(NAMES, "abcd", strict=True))) if text == "precomputed" else text
    module = classifier(small_config(text=tower, learning_rate=0.02, encoder_rate=0.1, weight_decay=0.3))
    optimizer = optimizer_of(module)
    slow, rest = optimizer.param_groups
    named = {id(values): name for name, values in module.network.named_parameters()}
    groups = [{named[id(values)] for values in group["params"]} for group in (slow, rest)]
    shared = {name for name in named.values() if name.startswith(("image.tokenizers.", "image.encoder."))}
    assert groups == [shared, set(named.values()) - shared]
    assert {"log_scale", "image.head.weight"} <= groups[1]
    assert (slow["lr"], rest["lr"]) == (pytest.approx(0.002), 0.02)
    assert slow["weight_decay"] == rest["weight_decay"] == 0.3
    assert isinstance(optimizer, torch.optim.Adam)


# Schedules


def rates(name: str, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, seen = lr_schedule(optimizer, name, epochs), list[float]()
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_learning_rates_follow_the_documented_schedules() -> None:
    assert rates("cosine", 8) == pytest.approx([(1 + math.cos(math.pi * e / 8)) / 2 for e in range(8)])
    released = [1.0] * 100 + [0.1] * 31 + [0.01] * 19
    assert rates("multistep", 150) == pytest.approx(released)
    assert rates("multistep", 30) == pytest.approx([1.0] * 20 + [0.1] * 6 + [0.01] * 4)
    periods = [(0, 5), (5, 10), (15, 20), (35, 40)]
    restarted = [(1 + math.cos(math.pi * (e - start) / n)) / 2 for start, n in periods for e in range(start, start + n)]
    assert rates("restarts", 60) == pytest.approx(restarted[:60])
