"""Stage 1 of BDGF: its step against a slow loop, curves, interruptions, and cache keys."""

from __future__ import annotations

import csv
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bdgf_helpers import BATCH, CHANNELS, SEED, SIDE, cheap, pretrainer
from helpers.method_helpers import other_value, refused, small_data
from helpers.network_helpers import random_windows, same, weights, without_gradient
from helpers.tiny import striped_map, tiny_scene
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.bdgf import pretraining as bdgf_pretraining
from mmrs_bench.methods.bdgf import pretraining_module
from mmrs_bench.methods.bdgf.config import BdgfConfig, DenoisingConfig
from mmrs_bench.methods.bdgf.modality_masking import random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import modality_losses, white_loss
from mmrs_bench.methods.bdgf.pretraining import CURVE
from mmrs_bench.methods.bdgf.pretraining_module import MultimodalPretrainer
from mmrs_bench.methods.toolkit import pretraining as toolkit_pretraining
from mmrs_bench.methods.toolkit import training
from mmrs_bench.randomness import SampleRandom, torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene


@pytest.fixture
def data() -> SceneDataModule:
    return small_data(window=SIDE)


def batch() -> dict[str, Any]:
    return {"windows": random_windows(CHANNELS, BATCH, SIDE)}


# The training step


def slow_losses(made: MultimodalPretrainer, clean: dict[str, Tensor], *at: int) -> tuple[dict[str, list[float]], float]:
    """By modality, the losses of visible pixels, with random numbers in the order of the draws; that of white noise."""
    generator = torch_generator("pretraining", *at)
    timesteps = torch.randint(1000, (BATCH,), generator=generator).tolist()
    noise = {name: torch.randn(x.shape, generator=generator) for name, x in clean.items()}
    patch = made.mask_patch
    per_side = math.ceil(SIDE / patch)
    whole = [draw < made.mask_whole for draw in torch.rand(BATCH, 1, generator=generator)[:, 0].tolist()]
    shuffled = {name: torch.rand(BATCH, per_side**2, generator=generator) for name in clean}
    visible, white = {name: list[float]() for name in clean}, 0.0
    for i, t in enumerate(timesteps):
        kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(t + 1))
        white += kept / BATCH
        seen, open_pixels = {}, {name: list[tuple[int, int]]() for name in clean}
        for place, (name, x) in enumerate(clean.items()):
            ratio = float(made.ratios.ratio[place])
            ranked = sorted(range(per_side**2), key=lambda patch, name=name: float(shuffled[name][i, patch]))
            masked = [] if whole[i] else ranked[: round(ratio * per_side**2)]
            window = math.sqrt(kept) * x[i] + math.sqrt(1 - kept) * noise[name][i]
            for row in range(SIDE):
                for column in range(SIDE):
                    if row // patch * per_side + column // patch in masked:
                        window[:, row, column] = made.tokens.tokens[name].detach()
                    else:
                        open_pixels[name].append((row, column))
            seen[name] = window[None]
        predicted = made.denoiser(seen, torch.tensor([t]))
        for name in clean:
            error = (predicted[name][0] - noise[name][i]).square()
            visible[name] += [float(error[:, row, column].mean()) for row, column in open_pixels[name]]
    return visible, white


@pytest.mark.parametrize(
    ("rule", "patch", "whole", "counted"),
    [
        ("none", 2, 0.5, "channels"),
        ("fixed", 1, 0.0, "modalities"),
        ("adaptive", 2, 0.5, "channels"),
        ("adaptive", 2, 0.5, "modalities"),
    ],
)
def test_the_step_equals_a_loop(
    rule: str, patch: int, whole: float, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretrainer(mask_rule=rule, mask_patch=patch, mask_whole=whole, loss_weights=counted)
    if rule == "adaptive":
        made.ratios.ratio.copy_(torch.tensor([0.2, 0.55]))
    monkeypatch.setattr(MultimodalPretrainer, "current_epoch", 2)
    logged: dict[str, Any] = {}
    made.log_dict = lambda parts, **options: logged.update(parts)  # type: ignore[method-assign,assignment]
    with torch.no_grad():
        found = made.training_step(batch(), 9)
        slow, white = slow_losses(made, batch()["windows"], SEED, 2, 9)
    weights = {name: c if counted == "channels" else 1 for name, c in CHANNELS.items()}
    total = sum(weights[name] * sum(errors) for name, errors in slow.items()) / sum(weights.values())
    assert float(found) == pytest.approx(total / (BATCH * SIDE**2), rel=1e-4)
    for place, (name, errors) in enumerate(slow.items()):
        mean = sum(errors) / len(errors)
        assert float(logged[f"loss_{name}"]) == pytest.approx(mean, rel=1e-4)
        assert logged[f"mask_ratio_{name}"] == float(made.ratios.ratio[place])
        assert float(made._relative_losses[name]) == pytest.approx(mean / white, rel=1e-4)


def test_every_parameter_gets_a_gradient_except_mask_tokens_without_masks() -> None:
    for rule, untrained in (("adaptive", []), ("none", [f"tokens.tokens.{name}" for name in CHANNELS])):
        made = pretrainer(mask_rule=rule)
        made.training_step(batch(), 0).backward()
        assert without_gradient(made) == untrained


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", CHANNELS)
def test_the_error_about_a_loss_that_is_not_finite_names_modality_and_step(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value is added behind the network, which would spread it to all losses."""
    monkeypatch.setattr(MultimodalPretrainer, "global_step", 17)
    made = pretrainer()
    real = made.denoiser.forward

    def broken(windows: dict[str, Tensor], timesteps: Tensor) -> dict[str, Tensor]:
        predicted = real(windows, timesteps)
        return {**predicted, name: predicted[name] + value}

    monkeypatch.setattr(made.denoiser, "forward", broken)
    with refused(TrainingError, rf"^pretraining: loss_{name} is (nan|inf) at step 17; "):
        made.training_step(batch(), 0)


# Mask ratios


@pytest.fixture
def _ratios_change_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few steps no loss is below that of white noise; with a larger one in its place, the ratios change."""
    monkeypatch.setattr(pretraining_module, "white_loss", lambda timesteps: torch.tensor(4.0))


def test_the_adaptive_rule_observes_relative_losses_and_the_gradient_rule_gradients() -> None:
    for rule in ("adaptive", "gradient"):
        made = pretrainer(mask_rule=rule, mask_warmup=2)
        made.training_step(batch(), 0).backward()
        made.on_after_backward()
        gradient = made.denoiser.unet.conv_in.weight.grad
        norms = [float(gradient[:, part].square().sum().sqrt()) for part in (slice(0, 5), slice(5, 9))]
        relative = [float(loss) for loss in made._relative_losses.values()]
        assert (2 * made.ratios.average).tolist() == pytest.approx(norms if rule == "gradient" else relative, rel=1e-5)


def test_a_gradient_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pretrainer(mask_rule="gradient")
    monkeypatch.setattr(made.denoiser, "input_gradients", lambda: {"hsi": 1.0, "sar": 0.0})
    with pytest.raises(TrainingError, match=r"at step 0, .*gradient of modality 'sar' is 0.0.*use another mask_rule"):
        made.on_after_backward()


def uneven_scene(easy: str) -> Scene:
    """One modality is constant except for a corner; the other is white noise, which cannot be denoised."""
    scene = tiny_scene(striped_map(36, 40), bands={"hsi": 3, "lidar": 3})
    flat = np.zeros((36, 40, 3), np.float32)
    flat[:4, :4] = 10
    noise = np.random.default_rng(0).normal(size=(36, 40, 3)).astype(np.float32)
    return replace(scene, images={name: flat if name == easy else noise for name in ("hsi", "lidar")})


@pytest.mark.usefixtures("_ratios_change_early")
@pytest.mark.parametrize("easy", ["hsi", "lidar"])
def test_the_modality_that_is_reconstructed_better_is_masked_more(easy: str, tmp_path: Path) -> None:
    training = {"pretrain_epochs": 4, "pretrain_windows": 288, "pretrain_rate": 0.01}
    masks = {"mask_most": 0.3, "mask_temperature": 0.03, "mask_decay": 0.8, "mask_warmup": 5, "mask_every": 5}
    method = cheap(tmp_path, **training, **masks)
    method.pretrain(SceneDataModule(uneven_scene(easy), DataConfig(window=SIDE)))
    curve = method.pretrained.curves["ratio"]
    torch.testing.assert_close(curve.sum(dim=1), torch.full((4,), 0.3))
    place = ["hsi", "lidar"].index(easy)
    assert float(curve[2:, place].mean() - curve[2:, 1 - place].mean()) > 0.05


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9])
def test_the_relative_loss_does_not_depend_on_the_mask_ratio(ratio: float) -> None:
    """For white noise and its best guess it is 1 at any ratio, while the loss of all positions rises."""
    g = SampleRandom("g")
    timesteps = g.integers(1000, 4096)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)[timesteps].reshape(-1, 1, 1, 1)
    clean, noise = g.normal(4096, 1, 9, 9), g.normal(4096, 1, 9, 9)
    masks = random_masks(4096, 9, {"hsi": ratio}, patch=3, whole=0.0, random=g)
    guess = (1 - kept).sqrt() * (kept.sqrt() * clean + (1 - kept).sqrt() * noise)
    guess = torch.where(masks["hsi"], 0.0, guess)
    visible = modality_losses({"hsi": guess}, {"hsi": noise}, masks)["hsi"]
    assert float(visible / white_loss(timesteps)) == pytest.approx(1.0, abs=0.03)
    masked = round(9 * ratio) / 9
    everywhere = modality_losses({"hsi": guess}, {"hsi": noise})["hsi"]
    assert float(everywhere) == pytest.approx(masked + (1 - masked) * float(white_loss(timesteps)), abs=0.03)


# Curves


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.usefixtures("_ratios_change_early")
def test_losses_and_mask_ratios_of_every_epoch_are_stored_and_written(data: SceneDataModule, tmp_path: Path) -> None:
    method = cheap(tmp_path, pretrain_epochs=3)
    method.pretrain(data)
    curves = method.pretrained.curves
    (logs,) = (tmp_path / "cache-root" / "pretraining").glob("*/logs")
    logged, written = (table(logs / name) for name in ("pretraining/metrics.csv", f"{CURVE}.csv"))
    order = [(epoch, name) for epoch in range(3) for name in data.channels]
    assert [(int(row["epoch"]), row["modality"]) for row in written] == order
    for (epoch, name), row in zip(order, written, strict=True):
        place = list(data.channels).index(name)
        for curve, column in (("loss", "loss"), ("ratio", "mask_ratio")):
            expected = pytest.approx(float(logged[epoch][f"{column}_{name}"]), rel=1e-5)
            assert float(curves[curve][epoch, place]) == float(row[column]) == expected
    assert (logs / f"{CURVE}.png").read_bytes().startswith(b"\x89PNG")
    assert len(set(curves["ratio"][:, 0].tolist())) == 3, "the ratios did not change"


# Interruptions


@pytest.mark.usefixtures("_ratios_change_early")
@pytest.mark.parametrize("changes", [{}, {"mask_warmup": 6}, {"mask_rule": "gradient"}])
def test_a_resumed_pretraining_equals_an_uninterrupted_one(
    changes: dict[str, Any], data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third of four epochs of two steps, after the warm-up or during it."""
    resumed, uninterrupted = (cheap(tmp_path, **{"pretrain_epochs": 4, **changes}) for _ in range(2))
    seen: list[int] = []
    real = MultimodalPretrainer.training_step

    def training_step(self: MultimodalPretrainer, batch: dict[str, Any], batch_idx: int) -> Tensor:
        seen.append(self.global_step)
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(MultimodalPretrainer, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt):
        resumed.pretrain(data)
    resumed.pretrain(data)
    assert seen[6:] == [4, 5, 6, 7], "it did not resume from the checkpoint of the second epoch"
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "uninterrupted"))
    uninterrupted.pretrain(data)
    assert same(weights(resumed.pretrained), weights(uninterrupted.pretrained))
    assert resumed.pretrained.curves["loss"].all()
    assert len(resumed.pretrained.curves["ratio"].unique()) > 2, "the ratios did not change"


# Cache keys


#: Values for `other_value`, where a multiple is not valid.
SPECIAL: dict[str, Any] = {
    **{"components": 3, "multipliers": (1, 1), "timesteps": (7,), "branches": ("cnn",)},
    **{"reach": (1.0, 3.0), "mask_least": 0.1},
}


def test_settings_of_stage_1_change_the_cache_key_and_others_do_not(
    data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses: list[dict[str, Any]] = []
    monkeypatch.setattr(toolkit_pretraining, "load_or_pretrain", lambda address, *rest: addresses.append(address))
    base = cheap(tmp_path)
    base.pretrain(data)
    found = set()
    for name in BdgfConfig.model_fields:
        value = other_value(base.config, name, SPECIAL)
        assert value != getattr(base.config, name)
        cheap(tmp_path, **{name: value}).pretrain(data)
        if addresses[-1] != addresses[0]:
            found.add(name)
    assert found == set(DenoisingConfig.model_fields) | {"components"}  # which change the images


def stepped(**changes: Any) -> dict[str, Tensor]:
    """The state after a few steps."""
    made = pretrainer(**changes)
    optimizer: Any = made.configure_optimizers()
    for index in range(3):
        optimizer.zero_grad()
        made.training_step(batch(), index).backward()
        made.on_after_backward()
        optimizer.step()
    return weights(made)


@pytest.mark.usefixtures("_ratios_change_early")
def test_every_setting_of_stage_1_affects_the_training(
    data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    def fit(module: MultimodalPretrainer, loaders: Any, context: Any, **options: Any) -> None:
        windows = [batch["windows"]["hsi"].tolist() for batch in loaders.train]
        served.append((windows, options, module.learning_rate))

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(bdgf_pretraining, "write_curve", lambda *args: None)
    first, start = cheap(tmp_path), stepped()
    first.pretrain(data)
    for name in sorted(DenoisingConfig.model_fields):
        change = {name: other_value(first.config, name, SPECIAL)}
        if name.startswith("pretrain_"):
            cheap(tmp_path, **change).pretrain(data)
            assert served[-1] != served[0], f"{name} changes nothing"
        else:
            assert not same(start, stepped(**change)), f"{name} changes nothing"
    assert not same(start, {**start, **stepped(learning_rate=0.01)})
