"""Masked diffusion without labels: the first stage of several methods.

Letters: b batch, c channels, w window side, n pixels of a window, v visible pixels, m modalities, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmrs_bench.config import PRETRAINING
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.models.diffusion import TIMESTEPS, add_noise, linear_schedule, split_error
from mmrs_bench.models.masked_diffusion.crops import Crop, random_crops
from mmrs_bench.models.masked_diffusion.initial_values import InitialValues, use_released_values
from mmrs_bench.models.masked_diffusion.schedules import Schedule, check_choice, lr_schedule
from mmrs_bench.models.masked_diffusion.transformer import (
    MaskedDiffusionTransformer,
    TokenEncoder,
    VisibleTokens,
    check_sizes,
    clean_timesteps,
    misplaced_visible,
    random_visible,
    window_pixels,
)
from mmrs_bench.randomness import SampleRandom


def visible_count(side: int, mask_ratio: float) -> int:
    """Number of visible pixels of a window: side^2 (1 - mask_ratio), rounded down.

    Floating point decides, as in the released code: 0.8 leaves 44 of 225 pixels, because 1 - 0.8 is less than 0.2.

    Raises:
        ConfigError: If no pixel or every pixel is visible.
    """
    pixels = side * side
    count = int(pixels * (1 - mask_ratio))
    if not 0 < count < pixels:
        raise ConfigError(
            f"mask_ratio {mask_ratio} leaves {count} of the {pixels} pixels of a window of {side} visible; stage 1 "
            "needs visible and masked ones, so use a larger window or another ratio"
        )
    return count


class MaskedDiffusionStage(StageModule):
    """Predicts the clean windows of all modalities from a part of their pixels, which are noised.

    L = sum over modalities of [visible_weight * mean error of visible pixels + masked_weight * mean error of masked
    pixels]. All modalities of a window have the same timestep; each has its own noise and mask. Logs
    ``visible_<modality>`` and ``masked_<modality>`` while training, and ``val/loss`` on validation windows. Calling the
    module computes `features`.

    Without ``noise`` it is a masked autoencoder (He et al. 2022): the visible pixels are clean, at timestep 0.

    Args:
        channels: Channels by modality.
        window: Window side in pixels.
        width, heads, depth, mlp_ratio: Sizes, see `mmrs_bench.models.masked_diffusion.transformer.TokenEncoder`.
        decoder_depth: Blocks of each modality's decoder.
        mask_ratio: Share of the pixels of a window that are hidden from the encoder.
        visible_weight, masked_weight: Weights of the errors of visible and of masked pixels.
        noise: Whether visible pixels are noised.
        misplaced_tokens: Whether to use `misplaced_visible` masks for all modalities but the first, as released.
        initial_values: See `mmrs_bench.models.masked_diffusion.initial_values.InitialValues`.
        learning_rate, weight_decay: Of Adam; the decay is an L2 penalty.
        schedule: See `mmrs_bench.models.masked_diffusion.schedules.Schedule`.
        crop: Random crops of windows, see `mmrs_bench.models.masked_diffusion.crops.Crop`.
        seed: Seed of crops, timesteps, masks and noise.

    Raises:
        ConfigError: If a setting is impossible, both weights are 0, or the mask leaves no pixel or every pixel visible.
    """

    def __init__(
        self,
        channels: dict[str, int],
        window: int = 11,
        *,
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        decoder_depth: int = 3,
        mask_ratio: float = 0.7,
        visible_weight: float = 1.0,
        masked_weight: float = 0.1,
        noise: bool = True,
        misplaced_tokens: bool = False,
        initial_values: InitialValues = "torch",
        learning_rate: float = 0.001,
        weight_decay: float = 0.0001,
        schedule: Literal["cosine", "restarts"] = "cosine",
        crop: Crop = "joint",
        seed: int = 0,
    ) -> None:
        super().__init__(channels, window)
        self.save_hyperparameters()
        check_choice("schedule", schedule, get_args(Schedule))
        check_choice("crop", crop, get_args(Crop))
        check_choice("initial_values", initial_values, get_args(InitialValues))
        check_sizes(width=width, heads=heads, mlp_ratio=mlp_ratio, depth=depth, decoder_depth=decoder_depth)
        self.visible = visible_count(window, mask_ratio)
        if min(visible_weight, masked_weight) < 0 or visible_weight == masked_weight == 0:
            raise ConfigError(
                f"visible_weight is {visible_weight} and masked_weight is {masked_weight}; use 0 or positive numbers, "
                "at most one of them 0"
            )
        self.visible_weight, self.masked_weight = visible_weight, masked_weight
        self.noise, self.misplaced_tokens = noise, misplaced_tokens
        self.learning_rate, self.weight_decay, self.schedule = learning_rate, weight_decay, schedule
        self.crop, self.seed = crop, seed
        self.network = MaskedDiffusionTransformer(
            channels,
            window,
            width=width,
            heads=heads,
            depth=depth,
            mlp_ratio=mlp_ratio,
            decoder_depth=decoder_depth,
        )
        if initial_values == "released":
            use_released_values(self.network)
        self._noise_schedule = linear_schedule()

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """`features` of windows."""
        return self.features(windows)

    def features(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Features (b, 3 m d) of clean windows (b, c, w, w) by modality, at timestep 0.

        For each modality: its class token, the token of the centre pixel, and the mean of all pixels' tokens.
        """
        embedded = self.network.embed_pixels(window_pixels(windows))
        return self.network.read(embedded, clean_timesteps(embedded), "tokens")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``; its parts are logged by modality."""
        windows = self.windows_of(batch)
        device = next(iter(windows.values())).device
        random = self.random(PRETRAINING, self.seed, self.current_epoch, batch_idx, device=device)
        parts = self._errors(random_crops(windows, self.crop, random), random)
        losses = {}
        for name, (seen, masked) in parts.items():
            logged = {f"visible_{name}": seen, f"masked_{name}": masked}
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(windows[name]))
            losses[f"the loss of modality {name}"] = self._weighted(seen, masked)
        check_finite(PRETRAINING, losses, self.global_step)
        return torch.stack([*losses.values()]).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss of windows without crops; timesteps, masks and noise are the same in every epoch."""
        windows = self.windows_of(batch)
        first = next(iter(windows.values()))
        parts = self._errors(windows, self.random("validation", self.seed, batch_idx, device=first.device))
        loss = torch.stack([self._weighted(seen, masked) for seen, masked in parts.values()]).sum()
        self.log("val/loss", loss, on_step=False, on_epoch=True, batch_size=len(first), sync_dist=True)

    def _weighted(self, visible: Tensor, masked: Tensor) -> Tensor:
        return self.visible_weight * visible + self.masked_weight * masked

    def _errors(self, windows: Mapping[str, Tensor], random: SampleRandom) -> dict[str, tuple[Tensor, Tensor]]:
        """By modality, the errors of visible and of masked pixels of windows with random masks and noise."""
        clean = window_pixels(windows)  # (b, n, c)
        b, n, _ = next(iter(clean.values())).shape
        timesteps = random.integers(TIMESTEPS, b)  # drawn in any case, so that masks do not depend on ``noise``
        if not self.noise:
            timesteps = torch.zeros_like(timesteps)
        visible: dict[str, VisibleTokens] = {}
        for name in clean:
            mask = misplaced_visible if self.misplaced_tokens and visible else random_visible
            visible[name] = mask(b, n, self.visible, random)
        noised = {}
        for name, pixels in clean.items():
            indices = visible[name].read[..., None].expand(-1, -1, pixels.shape[2])
            seen = pixels.gather(1, indices)  # (b, v, c)
            noised[name] = add_noise(self._noise_schedule, seen, timesteps, random) if self.noise else seen
        return self.split_errors(clean, noised, timesteps, visible)

    def split_errors(
        self,
        clean: Mapping[str, Tensor],
        noised: Mapping[str, Tensor],
        timesteps: Tensor,
        visible: Mapping[str, VisibleTokens],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By modality, the errors of visible and of masked pixels, predicted from noised visible ones.

        Args:
            clean: Clean pixels (b, n, c) by modality.
            noised: Noised visible pixels (b, v, c) by modality.
            timesteps: Diffusion timestep of each window (b,).
            visible: Indices of the visible pixels by modality.
        """
        predicted = self.network(noised, timesteps, visible)
        return {name: split_error(pixels, predicted[name], visible[name].write) for name, pixels in clean.items()}

    def configure_optimizers(self) -> Any:
        """Adam with the schedule."""
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=self.fused
        )
        return {"optimizer": optimizer, "lr_scheduler": lr_schedule(optimizer, self.schedule, self.epochs)}


#: Hyperparameters in which both stages agree.
ENCODER_SIZES = ("width", "heads", "depth", "mlp_ratio")


def copy_encoder(target: TokenEncoder, hyperparameters: Mapping[str, Any], stage_1: MaskedDiffusionStage) -> None:
    """Copy tokenizers and encoder of a first stage into a network.

    Args:
        target: The network.
        hyperparameters: ``channels`` and `ENCODER_SIZES` of ``target``.
        stage_1: The trained first stage.

    Raises:
        ConfigError: If they have other channels or sizes.
    """
    names = ("channels", *ENCODER_SIZES)
    different = [name for name in names if stage_1.hparams[name] != hyperparameters[name]]
    if different:
        raise ConfigError(
            f"stage 1 was trained with other {', '.join(different)} ("
            + "; ".join(f"{stage_1.hparams[name]} instead of {hyperparameters[name]}" for name in different)
            + "); build both stages with the same"
        )
    weights = stage_1.network.state_dict()
    shared = {name: tensor for name, tensor in weights.items() if not name.startswith("decoders.")}
    target.load_state_dict({**target.state_dict(), **shared})
