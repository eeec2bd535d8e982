"""LightningModules of CLIP and DiffCLIP: stage 1, stage 2, and the classification of a scene.

Letters: b batch, c channels, w window side, n pixels of a window, v visible pixels.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.clip.alignment import ClipNetwork, class_aware_loss, cosine_similarity, diagonal_loss
from mmrs_bench.methods.clip.augmentation import random_crops
from mmrs_bench.methods.clip.config import ClipConfig, DiffClipConfig
from mmrs_bench.methods.clip.masked_vit import (
    MaskedDiffusionTransformer,
    VisibleTokens,
    misplaced_visible,
    random_visible,
    window_pixels,
)
from mmrs_bench.methods.toolkit.classification import WindowClassifier, epochs_of
from mmrs_bench.methods.toolkit.pretraining import STAGE as PRETRAINING
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.models.diffusion import TIMESTEPS, add_noise, linear_schedule, split_error
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

#: Windows that a CPU encodes at once, so that their tokens fit its cache.
CPU_CHUNK = 32
#: Added before rounding down, because 1 - 0.8 is less than 0.2 in floating point.
ROUNDING = 1e-9


def visible_count(side: int, mask_ratio: float) -> int:
    """Number of visible pixels of a window: side^2 (1 - mask_ratio), rounded down.

    Raises:
        ConfigError: If no pixel or every pixel is visible.
    """
    pixels = side * side
    count = math.floor(pixels * (1 - mask_ratio) + ROUNDING)
    if not 0 < count < pixels:
        raise ConfigError(
            f"mask_ratio {mask_ratio} leaves {count} of the {pixels} pixels of a window of {side} visible; stage 1 "
            "needs visible and masked ones, so use a larger window or another ratio"
        )
    return count


def lr_schedule(optimizer: torch.optim.Optimizer, name: str, epochs: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A learning-rate schedule, stepped once per epoch.

    ``cosine``: half a cosine to 0. ``multistep``: a tenth after 100 of 150 epochs, a hundredth after 131, as released.
    ``restarts``: a cosine that restarts after 5, 15, 35, ... epochs, as released.
    """
    if name == "multistep":
        milestones = [round(epochs * 100 / 150), round(epochs * 131 / 150)]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    if name == "restarts":
        return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


class MaskedDiffusionPretrainer(L.LightningModule):
    """Stage 1: predicts the clean windows of all modalities from a part of their pixels, which are noised.

    L = sum over modalities of [mean error of visible pixels + masked_weight * mean error of masked pixels]. All
    modalities of a window have the same timestep; each has its own noise and mask.

    Args:
        network: The network.
        config: Settings.
        side: Window side in pixels.
        seed: Seed of crops, timesteps, masks and noise.
    """

    def __init__(self, network: MaskedDiffusionTransformer, config: DiffClipConfig, *, side: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._seed = seed
        self._visible = visible_count(side, config.mask_ratio)
        self._schedule = linear_schedule()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``pixel`` (b,) and ``windows``; its parts are logged by modality."""
        config, device = self._config, batch["pixel"].device
        generator = torch_generator(PRETRAINING, self._seed, self.current_epoch, batch_idx, device=device.type)
        clean = window_pixels(random_crops(batch["windows"], config.pretrain_crop, generator))  # (b, n, c)
        b, n, _ = next(iter(clean.values())).shape
        timesteps = torch.randint(TIMESTEPS, (b,), generator=generator, device=device)
        visible: dict[str, VisibleTokens] = {}
        for name in clean:
            mask = misplaced_visible if config.misplaced_tokens and visible else random_visible
            visible[name] = mask(b, n, self._visible, generator)
        noised = {}
        for name, pixels in clean.items():
            indices = visible[name].read[..., None].expand(-1, -1, pixels.shape[2])
            noised[name] = add_noise(self._schedule, pixels.gather(1, indices), timesteps, generator)  # (b, v, c)
        predicted = self.network(noised, timesteps, visible)
        losses = {}
        for name, pixels in clean.items():
            seen, masked = split_error(pixels, predicted[name], visible[name].write)
            parts = {f"visible_{name}": seen, f"masked_{name}": masked}
            self.log_dict(parts, on_step=False, on_epoch=True, batch_size=b)
            losses[f"the loss of modality {name}"] = seen + config.masked_weight * masked
        check_finite(PRETRAINING, losses, self.global_step)
        return torch.stack([*losses.values()]).sum()

    def configure_optimizers(self) -> Any:
        """Adam with the schedule of the settings."""
        config = self._config
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.pretrain_rate, weight_decay=config.pretrain_decay, fused=True
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": lr_schedule(optimizer, config.pretrain_schedule, epochs_of(self)),
        }


class LanguageAlignedClassifier(WindowClassifier):
    """Stage 2: trains image embeddings of windows against class texts.

    Args:
        network: The network; tokenizers and encoder may be pretrained.
        config: Settings.
        seed, draw: Seed and index of the support sample, for crops and timesteps.
    """

    network: ClipNetwork

    def __init__(self, network: ClipNetwork, config: ClipConfig, *, seed: int, draw: int) -> None:
        super().__init__(network, config)
        self._seed = seed
        self._draw = draw

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Scaled cosines (b, k) of clean windows at timestep 0."""
        pixels = window_pixels(batch["windows"])
        first = next(iter(pixels.values()))
        timesteps = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        return self.network(pixels, timesteps)  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Contrastive loss (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        config, target = self.config, batch["target"]
        address = ("alignment", self._draw, self._seed, self.current_epoch, batch_idx)
        generator = torch_generator(*address, device=target.device.type)
        windows = random_crops(batch["windows"], config.crop, generator)
        timesteps = torch.zeros_like(target)
        if config.timestep == "random":
            timesteps = torch.randint(TIMESTEPS, target.shape, generator=generator, device=target.device)
        contrast = class_aware_loss if config.contrast == "class" else diagonal_loss
        loss = contrast(self.network(window_pixels(windows), timesteps), target)
        self.log("loss", loss, batch_size=len(target))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with the schedule of the settings, and its own learning rate for tokenizers and encoder."""
        config, network = self.config, self.network
        encoder = [*network.image.tokenizers.parameters(), *network.image.encoder.parameters()]
        rest = [*network.image.head.parameters(), *network.texts.parameters(), network.log_scale]
        optimizer = torch.optim.Adam(
            [
                {"params": encoder, "lr": config.encoder_rate * config.learning_rate},
                {"params": rest, "lr": config.learning_rate},
            ],
            weight_decay=config.weight_decay,
            fused=True,
        )
        return {"optimizer": optimizer, "lr_scheduler": lr_schedule(optimizer, config.schedule, epochs_of(self))}


class SceneClassifier(L.LightningModule):
    """Classifies the pixels of one scene with a trained network; embeds each pixel and each text of it only once.

    Args:
        network: The trained network.
        data: The scene.
        timesteps: Timestep of the window of each pixel (h * w,).
    """

    def __init__(self, network: ClipNetwork, data: SceneDataModule, timesteps: Tensor) -> None:
        super().__init__()
        self.network = network
        self._data = data
        self._timesteps = timesteps

    def on_predict_start(self) -> None:
        """Embed all pixels and all texts."""
        with self.trainer.precision_plugin.forward_context():
            self._gatherer = self._data.gatherer(self.device).mapped(self.network.image.embed_pixels)
            self._texts = self.network.texts()
        self._timesteps = self._timesteps.to(self.device)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,)."""
        pixels = batch["pixel"]
        chunk = CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
        return torch.cat([self._classify(part) for part in pixels.split(chunk)])

    def _classify(self, pixels: Tensor) -> Tensor:
        embedded = window_pixels(self._gatherer.gather(pixels))
        images = self.network.image(embedded, self._timesteps[pixels])
        return cosine_similarity(images, self._texts).argmax(dim=1)
