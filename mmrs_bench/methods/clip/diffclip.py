"""DiffCLIP: masked-diffusion pretraining of a modality-shared encoder, then few-shot learning against class texts.

Stage 1, `MaskedDiffusionPretrainer`, needs no labels; stage 2 is `mmrs_bench.methods.clip.method.LanguageAlignedClassifier`.

Letters: b batch, m modalities, c channels, n pixels of a window, v visible ones, t timestep.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401); sizes, weights and schedules as in its released code.
What that code does and what the paper says differ in places: the card's variants name both (docs/methods/diffclip.md).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.clip.masked_vit import (
    ImageEncoder,
    MaskedDiffusionTransformer,
    VisibleTokens,
    misplaced_visible,
    random_visible,
    window_pixels,
)
from mmrs_bench.methods.clip.method import Clip, ClipConfig, Crop, class_vectors, cropped, lr_schedule
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.models.diffusion import TIMESTEPS, add_noise, linear_schedule, split_error
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

STAGE = "pretraining"

#: Raised when the same settings would pretrain to other weights, so that no old pretraining is read again.
PRETRAINING_VERSION = 2
#: What 1 - 0.8 is short of 0.2, and more.
ROUNDING = 1e-9
#: A checkpoint is written about so many times in a pretraining.
CHECKPOINTS = 20


class DiffClipConfig(ClipConfig):
    """Settings of `DiffClip`: those of stage 2, and these of stage 1.

    Attributes:
        decoder_depth: Blocks of each modality's decoder.
        mask_ratio: Share of a window's pixels that the encoder does not see.
        masked_weight: Weight of the masked pixels' error beside the visible ones'.
        misplaced_tokens: Mask the modalities after the first as the released code does: tokens come back at wrong
            places. Only for its reproduction.
        pretrain_source: ``unlabelled``: the protocol's unlabelled pixels; ``support``: the support set, as released.
        pretrain_epochs: Passes.
        pretrain_windows: Windows of an epoch, other ones in every epoch, unless there are fewer pixels.
        pretrain_batch: Windows of a step.
        pretrain_rate, pretrain_decay: Adam's learning rate and L2 penalty.
        pretrain_schedule: ``cosine`` or ``restarts``, see `mmrs_bench.methods.clip.method.lr_schedule`.
        pretrain_crop: See `ClipConfig`.
        pretrain_symmetries: See `ClipConfig`.
    """

    decoder_depth: int = Field(default=3, ge=1)
    mask_ratio: float = Field(default=0.7, gt=0, lt=1)
    masked_weight: float = Field(default=0.1, ge=0)
    misplaced_tokens: bool = False
    pretrain_source: Literal["unlabelled", "support"] = "unlabelled"
    pretrain_epochs: int = Field(default=400, ge=1)
    pretrain_windows: int = Field(default=1280, ge=1)
    pretrain_batch: int = Field(default=128, ge=1)
    pretrain_rate: float = Field(default=1e-3, gt=0)
    pretrain_decay: float = Field(default=1e-4, ge=0)
    pretrain_schedule: Literal["cosine", "restarts"] = "cosine"
    pretrain_crop: Crop = "joint"
    pretrain_symmetries: bool = True


#: Settings that decide the weights of stage 1.
PRETRAINING_SETTINGS = (
    "width",
    "heads",
    "depth",
    "mlp_ratio",
    *(name for name in DiffClipConfig.model_fields if name not in ClipConfig.model_fields),
)


def visible_count(side: int, mask_ratio: float) -> int:
    """Pixels of a window that stay visible: side^2 (1 - mask_ratio), rounded down.

    Raises:
        ConfigError: If none or all of them would.
    """
    pixels = side * side
    count = math.floor(pixels * (1 - mask_ratio) + ROUNDING)
    if not 0 < count < pixels:
        raise ConfigError(
            f"mask_ratio {mask_ratio} leaves {count} of the {pixels} pixels of a window of {side} visible; stage 1 "
            "needs visible and masked ones, so use a larger window or another ratio"
        )
    return count


class MaskedDiffusionPretrainer(L.LightningModule):
    """Stage 1: predicts clean windows of every modality from few of their noised pixels.

    L = sum over modalities of [mean error of visible pixels + 0.1 * mean error of masked pixels], the same timestep
    for all modalities of a window, noise and masks of their own.

    Args:
        network: The network.
        config: Settings.
        side: Window side in pixels.
        seed: Seed of masks, timesteps, noise and crops; they are addressed by step, so a resumed training repeats them.

    Raises:
        ConfigError: If the mask leaves no pixel, or all, visible.
    """

    def __init__(self, network: MaskedDiffusionTransformer, config: DiffClipConfig, *, side: int, seed: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._seed = seed
        self._visible = visible_count(side, config.mask_ratio)
        self._schedule = linear_schedule()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``; its parts are logged by modality."""
        device = batch["pixel"].device
        generator = torch_generator(STAGE, self._seed, self.current_epoch, batch_idx, device=device.type)
        clean = window_pixels(cropped(batch["windows"], self._config.pretrain_crop, generator))
        b, n, _ = next(iter(clean.values())).shape
        timesteps = torch.randint(TIMESTEPS, (b,), generator=generator, device=device)
        visible = self._masks(list(clean), b, n, generator)
        seen = {}
        for name, pixels in clean.items():
            read = visible[name].read[..., None].expand(-1, -1, pixels.shape[2])
            seen[name] = add_noise(self._schedule, pixels.gather(1, read), timesteps, generator)
        predicted = self.network(seen, timesteps, visible)
        losses = []
        for name, pixels in clean.items():
            errors = split_error(pixels, predicted[name], visible[name].write)
            loss = errors.visible + self._config.masked_weight * errors.masked
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"{STAGE}: the loss of modality {name} is {float(loss.detach())} at step {self.global_step}; lower "
                    "pretrain_rate, or check its image for values far outside the range of the rest"
                )
            parts = {f"visible_{name}": errors.visible, f"masked_{name}": errors.masked}
            self.log_dict(parts, on_step=False, on_epoch=True, batch_size=b)
            losses.append(loss)
        return torch.stack(losses).sum()

    def _masks(self, names: list[str], batch: int, tokens: int, generator: torch.Generator) -> dict[str, VisibleTokens]:
        masks = {}
        for place, name in enumerate(names):
            misplaced = self._config.misplaced_tokens and place > 0
            mask = misplaced_visible if misplaced else random_visible
            masks[name] = mask(batch, tokens, self._visible, generator)
        return masks

    def configure_optimizers(self) -> Any:
        """Adam with the schedule of the settings, by epochs."""
        config = self._config
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.pretrain_rate, weight_decay=config.pretrain_decay, fused=True
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": lr_schedule(optimizer, config.pretrain_schedule, config.pretrain_epochs),
        }


class DiffClip(Clip):
    """`Clip` whose encoder is pretrained by masked diffusion."""

    Config = DiffClipConfig

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`; a pretraining that another cell has done is read from the cache.

        Raises:
            ConfigError: If the mask leaves no pixel, or all, visible.
            TrainingError: If a loss is not a number.
            DataError: If the cache holds a damaged file for this pretraining.
            BenchError: If stage 2 would fail on the class texts (see `mmrs_bench.methods.clip.method.class_vectors`).
        """
        class_vectors(self.config, data.class_names)  # what would end stage 2 is told before stage 1's hours
        config, data, side = self.config, data.with_components(self.config.components), data.config.window
        visible_count(side, config.mask_ratio)
        support_only = config.pretrain_source == "support"
        pixels = np.sort(data.support) if support_only else data.unlabelled

        def build() -> MaskedDiffusionTransformer:
            return MaskedDiffusionTransformer(
                data.channels,
                side,
                width=config.width,
                heads=config.heads,
                depth=config.depth,
                decoder_depth=config.decoder_depth,
                mlp_ratio=config.mlp_ratio,
            )

        def train(network: MaskedDiffusionTransformer, context: RunContext) -> None:
            loader = data.shuffled_dataloader(
                (STAGE, context.seed),
                pixels,
                batch_size=config.pretrain_batch,
                augment=config.pretrain_symmetries,
                per_epoch=config.pretrain_windows,
            )
            training.fit(
                MaskedDiffusionPretrainer(network, config, side=side, seed=context.seed),
                data.serving(train=loader),
                context,
                stage=STAGE,
                epochs=config.pretrain_epochs,
                resumable=True,
            )

        address = {
            "method": "diffclip",
            "version": PRETRAINING_VERSION,
            "scene": data.scene.manifest.id,
            "window": side,
            "channels": data.channels,
            "images": data.images_sha256(),
            "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "settings": {name: getattr(config, name) for name in PRETRAINING_SETTINGS},
        }
        self._pretrained = load_or_pretrain(address, build, train, self.context)

    def _start(self, image: ImageEncoder) -> None:
        """Take tokenizers and shared encoder of stage 1; the head is new, the decoders have done their part."""
        shared = {
            name: tensor for name, tensor in self._pretrained.state_dict().items() if not name.startswith("decoders.")
        }
        image.load_state_dict({**image.state_dict(), **shared})
