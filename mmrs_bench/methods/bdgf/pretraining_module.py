"""The LightningModule of BDGF's stage 1.

Letters: b batch, c channels, w window side, m modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmrs_bench.config import PRETRAINING
from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.bdgf.modality_masking import MaskRatios, MaskRule, MaskTokens, random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses, white_loss
from mmrs_bench.methods.toolkit.curves import Curves
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.models.diffusion import TIMESTEPS


class _Losses(NamedTuple):
    """Losses at visible positions (m,), visible shares (m,) and the loss of the best guess for white noise (scalar)."""

    by_modality: Tensor
    visible: Tensor
    white: Tensor


class MultimodalPretrainer(StageModule):
    """Stage 1: predicts the noise in the windows of all modalities, parts of which are masked.

    L = sum over modalities of w_m times the squared error of their noise, summed over visible positions and divided by
    the number of all positions. All modalities of a window have the same timestep, but their own noise and masks. The
    weights w_m sum to 1; they are proportional to the modalities' channels, or equal. With the former and without
    masks, L is DDPM's loss of the stacked image.

    Timesteps, noise and masks depend on ``seed``, epoch and step only, so that a resumed training is identical;
    within an epoch, its curves show the rest of that epoch only. Logs losses and mask ratios by modality, and
    ``val/loss`` under the current mask ratios.

    Reference: BDGF, abstract; DDPM (Ho et al. 2020), equation 14; MaskDiT (Zheng et al., TMLR 2024), whose denoising
        loss is computed at visible positions too.
    Deviation: our reading of the abstract. Images have unit variance, like the noise, where diffusion models of
        photographs use the range -1 to 1.

    Args:
        channels: Channels by modality; at least two, unless ``mask_rule`` is ``none``.
        window: Window side in pixels.
        base, multipliers, blocks: Sizes of the U-Net, see `mmrs_bench.methods.bdgf.multimodal_ddpm.MultimodalDenoiser`.
        mask_rule, mask_least, mask_most, mask_temperature, mask_decay, mask_warmup, mask_every: Mask ratios, see
            `mmrs_bench.methods.bdgf.modality_masking.MaskRatios`.
        mask_patch: Side of the masked squares in pixels.
        mask_whole: Probability that a window is not masked at all.
        loss_weights: ``channels`` or ``modalities``, see above.
        learning_rate: Constant rate of Adam.
        seed: Seed of timesteps, noise and masks.

    Attributes:
        denoiser: The U-Net, which stage 2 uses.
        ratios: The mask ratios.
        curves: ``loss`` and ``ratio`` (epochs, m): mean loss at visible positions, and mask ratio.

    Raises:
        ConfigError: If a setting is invalid, the window is too small for the levels or patches, the mask ratios would
            mask everything, or masks have to balance a single modality.
    """

    def __init__(
        self,
        channels: dict[str, int],
        window: int = 11,
        *,
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4),
        blocks: int = 2,
        mask_rule: MaskRule = "adaptive",
        mask_least: float = 0.0,
        mask_most: float = 0.75,
        mask_temperature: float = 0.1,
        mask_decay: float = 0.99,
        mask_warmup: int = 100,
        mask_every: int = 10,
        mask_patch: int = 3,
        mask_whole: float = 0.5,
        loss_weights: Literal["channels", "modalities"] = "channels",
        learning_rate: float = 0.0003,
        seed: int = 0,
    ) -> None:
        super().__init__(channels, window)
        self.save_hyperparameters()
        if not 1 <= mask_patch <= window:
            raise ConfigError(f"mask_patch {mask_patch} does not fit a window of {window} pixels; use 1 to {window}")
        if not 0 <= mask_whole < 1 or loss_weights not in ("channels", "modalities"):
            raise ConfigError(
                f"mask_whole is {mask_whole} and loss_weights is {loss_weights}; use at least 0 and below 1, and "
                "channels or modalities"
            )
        self.mask_patch, self.mask_whole = mask_patch, mask_whole
        self.learning_rate, self.seed = learning_rate, seed
        try:
            self.ratios = MaskRatios(
                channels,
                mask_rule,
                least=mask_least,
                most=mask_most,
                temperature=mask_temperature,
                decay=mask_decay,
                warmup=mask_warmup,
                every=mask_every,
            )
            self.denoiser = MultimodalDenoiser(channels, window, base=base, multipliers=multipliers, blocks=blocks)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        largest, squares = self.ratios.largest(), (-(-window // mask_patch)) ** 2
        if round(largest * squares) == squares:
            raise ConfigError(
                f"a mask ratio of {largest:g} masks all {squares} squares of a window, which leaves nothing to learn "
                "from; lower mask_least and mask_most, or use a smaller mask_patch"
            )
        self.tokens = MaskTokens(channels)
        self.curves = Curves({"loss": len(channels), "ratio": len(channels)})
        counts = torch.tensor([*channels.values()] if loss_weights == "channels" else [1] * len(channels)).double()
        self._weights = counts / counts.sum()
        self._relative_losses: dict[str, Tensor] = {}
        self._epoch: list[Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``; the ratios are updated after the backward pass."""
        windows, names = self.windows_of(batch), list(self.channels)
        own = self._losses(windows, PRETRAINING, self.seed, self.current_epoch, batch_idx)
        losses, white = self._over_processes(own)
        parts = {f"loss_{name}": loss for name, loss in zip(names, losses, strict=True)}
        check_finite(PRETRAINING, parts, self.global_step)
        ratios = self.ratios()
        shares = {f"mask_ratio_{name}": ratio for name, ratio in ratios.items()}
        count = len(windows[names[0]])
        self.log_dict({**parts, **shares}, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)
        self._relative_losses = dict(zip(names, losses / white, strict=True))
        self._epoch.append(torch.stack([losses.cpu(), torch.tensor(list(ratios.values()))]))
        return self._total(own)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss of a batch with ``windows``; timesteps, noise and masks are the same in every epoch."""
        windows = self.windows_of(batch)
        loss = self._total(self._losses(windows, "validation", self.seed, batch_idx))
        self.log("val/loss", loss, batch_size=len(next(iter(windows.values()))), sync_dist=True)

    def on_after_backward(self) -> None:
        """Update the mask ratios."""
        gradient = self.ratios.rule == "gradient"
        try:
            self.ratios.observe(self.denoiser.input_gradients() if gradient else self._relative_losses)
        except ValueError as error:
            raise TrainingError(f"{PRETRAINING}: at step {self.global_step}, {error}; use another mask_rule") from error

    def on_train_epoch_end(self) -> None:
        """Add the means of the epoch to the curves, before a checkpoint is written."""
        losses, ratios = torch.stack(self._epoch).mean(dim=0)
        self.curves.record(self.current_epoch, loss=losses, ratio=ratios)
        self._epoch.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=self.fused)

    def _losses(self, windows: Mapping[str, Tensor], *address: str | int) -> _Losses:
        """Losses of clean windows with random timesteps, noise and masks."""
        first = next(iter(windows.values()))
        random = self.random(*address, device=first.device)
        timesteps = random.integers(TIMESTEPS, len(first))
        noised, noise = self.denoiser.add_noise(windows, timesteps, random)
        masks = random_masks(
            len(first), self.denoiser.side, self.ratios(), patch=self.mask_patch, whole=self.mask_whole, random=random
        )
        predicted = self.denoiser(self.tokens(noised, masks), timesteps)
        losses = torch.stack(list(modality_losses(predicted, noise, masks).values()))
        visible = torch.stack([(~mask).float().mean() for mask in masks.values()])
        return _Losses(losses, visible, white_loss(timesteps))

    def _total(self, losses: _Losses) -> Tensor:
        return (self._weights.to(losses.by_modality) * losses.visible * losses.by_modality).sum()

    def _over_processes(self, own: _Losses) -> tuple[Tensor, Tensor]:
        """Losses (m,) and loss for white noise of the whole batch, of which each process has an equal part."""
        losses = own.by_modality.detach()
        if self._trainer is None or self.trainer.world_size == 1:
            return losses, own.white
        gathered: list[Any] = [self.all_gather(values) for values in (losses, own.visible, own.white)]
        parts, visible, white = gathered  # (p, m), (p, m), (p,) of p processes
        return (parts * visible).sum(dim=0) / visible.sum(dim=0), white.mean()
