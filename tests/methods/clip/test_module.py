"""Both stages as modules: training steps against slow loops, optimisers, schedules, refused settings, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.clip_helpers import pixels_of, slow_crops, text_file
from helpers.method_helpers import refused
from helpers.module_cases import saved
from helpers.network_helpers import random_windows, same, silent, weights, without_gradient
from torch import Tensor

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.clip.alignment import class_aware_loss, diagonal_loss
from mmrs_bench.methods.clip.module import LanguageAlignedClassifier
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.toolkit.masked_diffusion.stage import visible_count
from mmrs_bench.models.masked_diffusion.schedules import Schedule, lr_schedule
from mmrs_bench.models.masked_diffusion.transformer import VisibleTokens
from mmrs_bench.randomness import torch_generator

CHANNELS = {"hsi": 5, "lidar": 1, "sar": 2}
MODALITIES: list[dict[str, int]] = [{"hsi": 5}, {"hsi": 5, "sar": 4}, {"hsi": 5, "lidar": 1, "dsm": 2}]
SIDE, BATCH, SEED, DRAW = 5, 6, 3, 4
TARGET = torch.tensor([2, 0, 2, 3, 3, 2])
NAMES = ("Road", "Water", "Apple trees", "Bare soil")
SIZES = {"width": 8, "heads": 2, "depth": 2}


def pretrainer(channels: Mapping[str, int] = CHANNELS, **options: Any) -> MaskedDiffusionPretrainer:
    """A small module of stage 1 that logs nothing."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        settings = {**SIZES, "decoder_depth": 1, "seed": SEED, **options}
        module = MaskedDiffusionPretrainer(dict(channels), SIDE, **settings)
    silent(module)
    return module


def classifier(**options: Any) -> LanguageAlignedClassifier:
    """A small module of stage 2 that logs nothing, with a head large enough for a difference to show in any readout."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        settings = {**SIZES, "text_layers": 1, "class_names": NAMES, "seed": SEED, "draw": DRAW, **options}
        module = LanguageAlignedClassifier(CHANNELS, len(NAMES), SIDE, **settings)
        torch.nn.init.normal_(module.network.image.head.weight)
    silent(module)
    return module


def batch_of(channels: Mapping[str, int] = CHANNELS) -> dict[str, Any]:
    return {"pixel": torch.arange(BATCH), "windows": random_windows(channels, BATCH, SIDE), "target": TARGET}


def tower_of(text: str, folder: Path) -> str:
    return text_file(folder, dict(zip(NAMES, "abcd", strict=True))) if text == "precomputed" else text


# Stage 1


def slow_pretraining_loss(module: MaskedDiffusionPretrainer, windows: Mapping[str, Tensor], *at: int) -> float:
    """Window after window, modality after modality, pixel after pixel, in the order in which numbers are drawn."""
    settings, generator = module.hparams, torch_generator("pretraining", *at)
    cropped = slow_crops(windows, settings["crop"], generator)
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    n, v = SIDE * SIDE, math.floor(SIDE * SIDE * (1 - settings["mask_ratio"]))
    read, write = dict[str, Tensor](), dict[str, Tensor]()
    for place, name in enumerate(windows):
        shuffles = torch.rand(BATCH, n, generator=generator).argsort(dim=1)
        read[name] = write[name] = shuffles[:, :v]
        if settings["misplaced_tokens"] and place > 0:
            read[name] = torch.tensor([[shuffle.index(token) for token in range(v)] for shuffle in shuffles.tolist()])
    noise = {name: torch.randn(BATCH, v, x.shape[1], generator=generator) for name, x in windows.items()}
    visible, masked = ({name: list[float]() for name in windows} for _ in range(2))
    for i, t in enumerate(timesteps):
        t = t if settings["noise"] else 0
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1)) if settings["noise"] else 1.0
        pixels = {name: x[0] for name, x in pixels_of(cropped, i).items()}
        noised = {
            name: (math.sqrt(kept) * pixels[name][read[name][i]] + math.sqrt(1 - kept) * noise[name][i])[None]
            for name in windows
        }
        tokens = {name: VisibleTokens(read[name][i : i + 1], write[name][i : i + 1]) for name in windows}
        predicted = module.network(noised, torch.tensor([t]), tokens)
        for name in windows:
            for token in range(n):
                error = float((predicted[name][0, token] - pixels[name][token]).square().mean())
                (visible if token in write[name][i].tolist() else masked)[name].append(error)
    return sum(
        settings["visible_weight"] * sum(visible[name]) / len(visible[name])
        + settings["masked_weight"] * sum(masked[name]) / len(masked[name])
        for name in windows
    )


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize(
    "options",
    [
        {"crop": "none"},
        {"crop": "joint", "mask_ratio": 0.5},
        {"crop": "independent", "masked_weight": 0.6},
        {"misplaced_tokens": True, "masked_weight": 0.6},
        {"noise": False, "visible_weight": 0.0, "masked_weight": 1.0},
        {"noise": False, "visible_weight": 0.7},
    ],
    ids=["plain", "joint", "independent", "misplaced", "masked autoencoder", "no noise"],
)
def test_the_pretraining_loss_equals_that_of_a_loop(
    options: dict[str, Any], channels: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pretrainer(channels, **options)
    module.eval()  # in training mode, a single window has other batch statistics than a batch
    monkeypatch.setattr(MaskedDiffusionPretrainer, "current_epoch", 2)
    batch = batch_of(channels)
    with torch.no_grad():
        expected = slow_pretraining_loss(module, batch["windows"], SEED, 2, 9)
        assert float(module.training_step(batch, 9)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("channels", MODALITIES, ids=len)
@pytest.mark.parametrize("misplaced", [False, True])
def test_pretraining_trains_every_parameter(misplaced: bool, channels: dict[str, int]) -> None:
    module = pretrainer(channels, misplaced_tokens=misplaced)
    module.training_step(batch_of(channels), 0).backward()
    assert without_gradient(module) == []
    assert all(values.requires_grad for values in module.parameters())


@pytest.mark.parametrize(("visible", "masked"), [(0.0, 0.0), (-0.1, 1.0), (1.0, -0.1)])
def test_weights_that_make_no_loss_are_refused(visible: float, masked: float) -> None:
    with refused(ConfigError, f"visible_weight is {visible} and masked_weight is {masked}; use 0 or positive numbers"):
        pretrainer(visible_weight=visible, masked_weight=masked)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["hsi", "lidar", "dsm"])
def test_a_loss_that_is_not_finite_names_modality_and_step(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskedDiffusionPretrainer, "global_step", 17)
    module, batch = pretrainer(MODALITIES[2]), batch_of(MODALITIES[2])
    batch["windows"][name][2, 0, 1, 3] = value
    with refused(TrainingError, rf"^pretraining: the loss of modality {name} is (nan|inf) at step 17;"):
        module.training_step(batch, 0)


@pytest.mark.parametrize(
    ("side", "ratio", "count"),
    [(11, 0.7, 36), (5, 0.95, 1), (5, 0.5, 12), (15, 0.8, 44)],  # 1 - 0.8 is less than 0.2 in floating point
)
def test_the_visible_count_is_rounded_down_in_floating_point_as_released(side: int, ratio: float, count: int) -> None:
    assert visible_count(side, ratio) == count == int(side * side * (1 - ratio))


@pytest.mark.parametrize(("side", "ratio", "left"), [(1, 0.7, 0), (3, 0.95, 0), (5, 1e-17, 25)])
def test_masks_that_leave_no_pixel_or_every_pixel_visible_are_refused(side: int, ratio: float, left: int) -> None:
    with refused(ConfigError, rf"mask_ratio {ratio} leaves {left} of the {side**2} pixels of a window"):
        MaskedDiffusionPretrainer(CHANNELS, side, mask_ratio=ratio)


def test_features_are_the_tokens_of_clean_windows_at_timestep_0() -> None:
    module = pretrainer().eval()
    windows, sequences = random_windows(CHANNELS, BATCH, SIDE), list[Tensor]()
    for name, tokenizer in module.network.tokenizers.items():
        pixels = torch.cat([pixels_of(windows, i)[name] for i in range(BATCH)])
        sequences.append(tokenizer.sequence(tokenizer.embed_pixels(pixels), torch.zeros(BATCH, dtype=torch.long)))
    parts = []
    for tokens in (module.network.encoder(sequence) for sequence in sequences):
        parts += [tokens[:, 0], tokens[:, 1 + SIDE**2 // 2], tokens[:, 1:].mean(dim=1)]
    torch.testing.assert_close(module(windows), torch.cat(parts, dim=1), atol=1e-5, rtol=1e-4)


# Stage 2


@pytest.mark.parametrize("timestep", ["zero", "random"])
@pytest.mark.parametrize("crop", ["none", "joint", "independent"])
@pytest.mark.parametrize("contrast", ["class", "diagonal"])
def test_the_contrastive_loss_equals_that_of_a_loop(
    contrast: str, crop: str, timestep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers depend on draw, seed, epoch and batch: first the coins of the crops, then the timesteps."""
    module = classifier(contrast=contrast, crop=crop, timestep=timestep, temperature=0.4)
    module.eval()  # in training mode, a single window has other batch statistics than a batch
    monkeypatch.setattr(LanguageAlignedClassifier, "current_epoch", 2)
    batch = batch_of()
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


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
@pytest.mark.parametrize("readout", ["class", "tokens"])
@pytest.mark.parametrize("contrast", ["class", "diagonal"])
def test_alignment_trains_every_parameter(contrast: str, readout: str, text: str, tmp_path: Path) -> None:
    module = classifier(contrast=contrast, readout=readout, text=tower_of(text, tmp_path), learn_positions=True)
    module.training_step(batch_of(), 0).backward()
    names = dict(module.named_parameters())
    assert without_gradient(module) == []
    for learned in ("positions", "class_position"):
        assert sum(name.endswith(f".{learned}") for name in names) == len(CHANNELS)
    assert "network.log_scale" in names
    assert ("network.texts.projection.weight" in names) == (text == "precomputed")
    assert "network.texts.embeddings" not in names, "the vectors of a frozen tower are trained"


@pytest.mark.parametrize("timestep", ["zero", "random"])
def test_validation_scores_clean_windows_and_draws_timesteps_in_every_epoch(
    timestep: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timesteps depend on draw, seed, epoch and batch."""
    texts = torch.randn(len(NAMES), 8, generator=torch.Generator().manual_seed(0))
    module = classifier(timestep=timestep, crop="joint", readout="class", text_vectors=texts).eval()
    generator = torch.Generator().manual_seed(0)
    for tokenizer in module.network.image.tokenizers.values():  # so that the timestep decides the class
        torch.nn.init.normal_(tokenizer.time.linear_2.weight, generator=generator)
    windows = random_windows(CHANNELS, BATCH, SIDE)
    found = []
    for epoch in (0, 1):
        monkeypatch.setattr(LanguageAlignedClassifier, "current_epoch", epoch)
        generator = torch_generator("validation", DRAW, SEED, epoch, 7)
        t = torch.randint(1000, (BATCH,), generator=generator) if timestep == "random" else torch.zeros(BATCH).long()
        with torch.no_grad():
            logits = [module.network(pixels_of(windows, i), t[i : i + 1])[0] for i in range(BATCH)]
            best = [int(row.argmax()) for row in logits]
            target = torch.tensor([*best[:4], (best[4] + 1) % 4, (best[5] + 2) % 4])
            module.validation_scores.reset()
            module.validation_step({"windows": windows, "target": target}, 7)
        assert float(module.validation_scores.compute()["val/OA"]) == pytest.approx(4 / 6)
        found.append(best)
    assert (found[0] != found[1]) == (timestep == "random"), "the timesteps of the epochs have the same effect"


def test_random_timesteps_of_predictions_need_the_pixels() -> None:
    module, windows = classifier(timestep="random"), random_windows(CHANNELS, BATCH, SIDE)
    with refused(ConfigError, r"timestep random .* need batches with pixel"):
        module.predict_step({"windows": windows}, 0)


@pytest.mark.parametrize("text", ["scratch", "precomputed"])
def test_tokenizers_and_encoder_have_their_own_learning_rate(text: str, tmp_path: Path) -> None:
    module = classifier(text=tower_of(text, tmp_path), learning_rate=0.02, encoder_rate=0.1, weight_decay=0.3)
    module.trainer = L.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False)
    optimizer = module.configure_optimizers()["optimizer"]
    slow, rest = optimizer.param_groups
    named = {id(values): name for name, values in module.network.named_parameters()}
    groups = [{named[id(values)] for values in group["params"]} for group in (slow, rest)]
    shared = {name for name in named.values() if name.startswith(("image.tokenizers.", "image.encoder."))}
    assert groups == [shared, set(named.values()) - shared]
    assert {"log_scale", "image.head.weight"} <= groups[1]
    assert (slow["lr"], rest["lr"]) == (pytest.approx(0.002), 0.02)
    assert slow["weight_decay"] == rest["weight_decay"] == 0.3
    assert isinstance(optimizer, torch.optim.Adam)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": None}, "needs the names of its 4 classes in target order, but got no class_names"),
        ({"class_names": ["Road"]}, "4 classes in target order, but got 1 class_names"),
        ({"text": "scrach"}, "unknown text tower 'scrach'"),
        ({"descriptions": {"Rode": ["grey"]}}, "'Rode'.*did you mean Road"),
        ({"contrast": "klass"}, "unknown contrast 'klass'"),
        ({"crop": True}, "unknown crop 'True'"),
        ({"readout": "all"}, "unknown readout 'all'"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"timestep": 0}, "unknown timestep '0'"),
        ({"initial_values": "xavier"}, "unknown initial_values 'xavier'"),
        ({"temperature": 0.0}, r"temperature is 0\.0"),
        ({"heads": 3}, "3 heads do not divide the width 8"),
        ({"depth": 0}, "depth is 0; use a positive number"),
        ({"width": 6}, "width is 6; use a multiple of 4"),
        ({"text_vectors": torch.ones(3, 2)}, r"text_vectors have shape \(3, 2\), expected finite vectors \(4, width\)"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with refused(ConfigError, message):
        classifier(**options)


# Checkpoints


def test_stage_2_continues_from_a_checkpoint_of_stage_1(tmp_path: Path) -> None:
    stage_1 = pretrainer()
    torch.nn.init.normal_(stage_1.network.encoder.norm.weight)
    checkpoint = saved(stage_1, tmp_path / "stage1.ckpt")
    plain, module = classifier(learn_positions=True), classifier(learn_positions=True, pretrained=checkpoint)
    taken = {name: values for name, values in weights(stage_1.network).items() if not name.startswith("decoders.")}
    assert same(weights(module.network.image), {**weights(plain.network.image), **taken})
    with refused(ConfigError, r"other depth \(2 instead of 1\); build both stages with the same"):
        classifier(depth=1, pretrained=checkpoint)
    Path(checkpoint).unlink()
    again = LanguageAlignedClassifier.load_from_checkpoint(saved(module, tmp_path / "module.ckpt"))
    assert same(weights(again), weights(module)), "a checkpoint of stage 2 needs that of stage 1"


# Schedules


def rates(name: Schedule, epochs: int) -> list[float]:
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
