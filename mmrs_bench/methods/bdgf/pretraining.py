"""BDGF's first stage: a diffusion model of all modalities together, trained on masked windows without labels.

The mask ratio of each modality follows how much of it is known, so that none dominates.

Letters: b batch, m modalities, c channels, w window side, t timestep.

Reference: BDGF (Liu et al. 2025, arXiv 2509.23310), of which only the abstract was at hand: our reading.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lightning as L
import torch
from pydantic import Field
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, DataError, TrainingError
from mmrs_bench.io import write_csv, write_png
from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.bdgf.modality_masking import MaskRatios, MaskRule, MaskTokens, random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses, white_loss
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE = "pretraining"
#: Raised when the same settings would pretrain to other weights, so that no old pretraining is read again.
PRETRAINING_VERSION = 3
#: A checkpoint is written about so many times in a pretraining.
CHECKPOINTS = 20
#: Names of the curve's files, without their endings.
CURVE = "mask_ratios"


class DenoisingConfig(MethodConfig):
    """Settings of the first stage; all of them decide its weights.

    Attributes:
        base, multipliers, blocks: Sizes of the U-Net, see `mmrs_bench.methods.bdgf.multimodal_ddpm.MultimodalDenoiser`.
        mask_rule: What the mask ratios follow, see `mmrs_bench.methods.bdgf.modality_masking.MaskRatios`, as for
            ``mask_least``, ``mask_most``, ``mask_temperature``, ``mask_decay``, ``mask_warmup`` and ``mask_every``.
        mask_patch: Side of the squares that are hidden, in pixels.
        mask_whole: How probable it is that a window stays whole.
        loss_weights: What counts alike in the loss: ``channels``, as in a diffusion model of one stacked image, or
            ``modalities``, whatever their channels.
        pretrain_epochs: Passes.
        pretrain_windows: Windows of an epoch, other ones in every epoch, unless there are fewer pixels.
        pretrain_batch: Windows of a step.
        pretrain_rate: Adam's learning rate.
        pretrain_symmetries: Whether windows get a random symmetry of the square.
    """

    base: int = Field(default=64, ge=1)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4), min_length=1)
    blocks: int = Field(default=2, ge=1)
    mask_rule: MaskRule = "adaptive"
    mask_least: float = Field(default=0.0, ge=0, le=1)
    mask_most: float = Field(default=0.75, ge=0, le=1)
    mask_temperature: float = Field(default=0.1, gt=0)
    mask_decay: float = Field(default=0.99, ge=0, lt=1)
    mask_warmup: int = Field(default=100, ge=1)
    mask_every: int = Field(default=10, ge=1)
    mask_patch: int = Field(default=3, ge=1)
    mask_whole: float = Field(default=0.5, ge=0, lt=1)
    loss_weights: Literal["channels", "modalities"] = "channels"
    pretrain_epochs: int = Field(default=300, ge=1)
    pretrain_windows: int = Field(default=12800, ge=1)
    pretrain_batch: int = Field(default=128, ge=1)
    pretrain_rate: float = Field(default=1e-4, gt=0)
    pretrain_symmetries: bool = True


class MaskedDenoiser(nn.Module):
    """All that the first stage learns and keeps, in one state dict: a checkpoint or a cached file has all of it.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        config: Settings.

    Attributes:
        denoiser: The U-Net, all that the second stage takes.
        tokens: What stands where pixels are hidden.
        ratios: The mask ratios and what they follow.
        loss_curve, ratio_curve: Mean loss of what is visible, and mask ratio, of each epoch and modality
            (pretrain_epochs, m); 0 for epochs to come. Kept here because logs lose their last lines when a process is
            killed.

    Raises:
        ConfigError: If the window is too small for the levels or the patches, a rule for mask ratios has one modality
            only, or the mask ratios do not rise.
    """

    loss_curve: Tensor
    ratio_curve: Tensor

    def __init__(self, channels: dict[str, int], side: int, config: DenoisingConfig) -> None:
        super().__init__()
        if config.mask_rule != "none" and len(channels) < 2:
            raise ConfigError(
                f"mask_rule {config.mask_rule} has nothing to balance: the method sees {', '.join(channels)} alone; "
                "use the variant mask-none (mask_rule: none), or give it a second modality"
            )
        if config.mask_patch > side:
            raise ConfigError(f"mask_patch {config.mask_patch} does not fit a window of {side} pixels; use 1 to {side}")
        try:
            self.denoiser = MultimodalDenoiser(
                channels, side, base=config.base, multipliers=config.multipliers, blocks=config.blocks
            )
            self.ratios = MaskRatios(
                channels,
                config.mask_rule,
                least=config.mask_least,
                most=config.mask_most,
                temperature=config.mask_temperature,
                decay=config.mask_decay,
                warmup=config.mask_warmup,
                every=config.mask_every,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        moves = config.mask_rule in ("adaptive", "gradient")
        largest = config.mask_most if moves else max(self.ratios().values())
        squares = (-(-side // config.mask_patch)) ** 2
        if round(largest * squares) == squares:
            raise ConfigError(
                f"mask_least {config.mask_least:g} and mask_most {config.mask_most:g} may hide all {squares} squares "
                "of a window, which leaves nothing to learn from; lower them, or use a smaller mask_patch"
            )
        self.tokens = MaskTokens(channels)
        for name in ("loss_curve", "ratio_curve"):
            self.register_buffer(name, torch.zeros(config.pretrain_epochs, len(channels)))


class MultimodalPretrainer(L.LightningModule):
    """Learns to tell the noise in the windows of all modalities, parts of which are hidden.

    L = sum over modalities of w_m times the squared error of their noise, summed over visible positions and divided by
    the number of all; the same timestep for all modalities of a window, noise and masks of their own. The weights w_m
    add up to 1 and are as the modalities' channels, or alike. With the former and nothing hidden L is DDPM's loss for
    the stacked image. A modality that is hidden more counts less.

    Reference: BDGF, abstract, our reading; the authors' code could not be obtained. DDPM (Ho et al. 2020), equation 14.
        MaskDiT (Zheng et al., TMLR 2024), whose denoising loss too is one of what is visible.

    Deviation: images stay as the protocol normalises them, by default to unit variance like the noise, where diffusion
        models of photographs want the range -1 to 1.

    Args:
        network: The network.
        config: Settings.
        seed: Seed of timesteps, noise and masks; they are addressed by step, so a resumed training repeats them.
    """

    def __init__(self, network: MaskedDenoiser, config: DenoisingConfig, *, seed: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._seed = seed
        channels = network.ratios.channels
        weights = channels if config.loss_weights == "channels" else torch.ones_like(channels)
        self._weights = weights / weights.sum()
        self._learned: dict[str, Tensor] = {}
        self._epoch: list[Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``; losses and mask ratios are logged by modality."""
        network, clean, device = self.network, batch["windows"], batch["pixel"].device
        generator = torch_generator(STAGE, self._seed, self.current_epoch, batch_idx, device=device.type)
        b, side = len(batch["pixel"]), network.denoiser.side
        timesteps = torch.randint(TIMESTEPS, (b,), generator=generator, device=device)
        noised = network.denoiser.add_noise(clean, timesteps, generator)
        ratios = network.ratios()
        masks = random_masks(
            b, side, ratios, patch=self._config.mask_patch, whole=self._config.mask_whole, generator=generator
        )
        predicted = network.denoiser(network.tokens(noised.windows, masks), timesteps)
        losses = modality_losses(predicted, noised.noise, masks)
        for name, loss in losses.items():
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"{STAGE}: the loss of modality {name} is {float(loss.detach())} at step {self.global_step}; lower "
                    "pretrain_rate, or check its image for values far outside the range of the rest"
                )
        parts = {f"loss_{name}": loss for name, loss in losses.items()}
        shares = {f"mask_ratio_{name}": ratio for name, ratio in ratios.items()}
        self.log_dict({**parts, **shares}, on_step=False, on_epoch=True, batch_size=b)
        self._learned = {name: loss.detach() / white_loss(timesteps) for name, loss in losses.items()}
        stacked = torch.stack(list(losses.values()))
        self._epoch.append(torch.stack([stacked.detach().cpu(), torch.tensor(list(ratios.values()))]))
        visible = torch.stack([(~mask).float().mean() for mask in masks.values()])
        return (self._weights.to(stacked) * visible * stacked).sum()

    def on_after_backward(self) -> None:
        """Tell the mask ratios what the step has shown."""
        network = self.network
        gradient = self._config.mask_rule == "gradient"
        try:
            network.ratios.observe(network.denoiser.input_gradients() if gradient else self._learned)
        except ValueError as error:
            raise TrainingError(f"{STAGE}: at step {self.global_step}, {error}; use another mask_rule") from error

    def on_train_epoch_end(self) -> None:
        """Put the epoch's means into the curves, before a checkpoint is written."""
        losses, ratios = torch.stack(self._epoch).mean(dim=0)
        self.network.loss_curve[self.current_epoch] = losses
        self.network.ratio_curve[self.current_epoch] = ratios
        self._epoch.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self._config.pretrain_rate, fused=True)


def pretrained_denoiser(config: DenoisingConfig, data: SceneDataModule, context: RunContext) -> MaskedDenoiser:
    """The first stage of a scene: trained, or read from the cache if another cell has done it.

    Args:
        config: Settings; others of a subclass have no say.
        data: The scene as the denoiser sees it.
        context: The cell's.

    Raises:
        ConfigError: See `MaskedDenoiser`; told before any training.
        TrainingError: If a loss is not a number.
        DataError: If the cache holds a damaged file for this pretraining.
        BenchError: If the cache cannot be written.
    """
    pixels = data.unlabelled

    def build() -> MaskedDenoiser:
        return MaskedDenoiser(data.channels, data.config.window, config)

    def train(network: MaskedDenoiser, context: RunContext) -> None:
        loader = data.shuffled_dataloader(
            (STAGE, context.seed),
            pixels,
            batch_size=config.pretrain_batch,
            augment=config.pretrain_symmetries,
            per_epoch=config.pretrain_windows,
        )
        training.fit(
            MultimodalPretrainer(network, config, seed=context.seed),
            data.serving(train=loader),
            context,
            stage=STAGE,
            epochs=config.pretrain_epochs,
            resumable=True,
        )
        write_curve(network, context.work_dir / "logs")

    address = {
        "method": "bdgf",
        "version": PRETRAINING_VERSION,
        "scene": data.scene.manifest.id,
        "window": data.config.window,
        "channels": data.channels,
        "images": data.images_sha256(),
        "pixels": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "settings": {name: getattr(config, name) for name in DenoisingConfig.model_fields},
    }
    return load_or_pretrain(address, build, train, context)


def check_modalities(data: SceneDataModule) -> None:
    """Refuse a modality that is constant, in the scene or where normalisation looks: there is nothing to learn.

    Args:
        data: The scene before its bands become principal components, which would blow rounding up to unit variance.

    Raises:
        DataError: If one is.
    """
    for name, image in data.images.items():
        raw = data.scene.images[name]
        if not image.any() or (raw.max(axis=(0, 1)) == raw.min(axis=(0, 1))).all():
            raise DataError(
                f"modality {name} of scene {data.scene.manifest.id} is constant, which leaves a denoiser nothing to "
                "learn; check its file, widen normalisation_scope, or leave it out with --modalities"
            )


def write_curve(network: MaskedDenoiser, folder: Path) -> None:
    """Write losses and mask ratios over epochs: ``mask_ratios.csv`` and, drawn, ``mask_ratios.png``.

    Args:
        network: A pretrained network, also one that came from the cache.
        folder: Where the files go.

    Raises:
        BenchError: If they cannot be written.
    """
    curves = zip(network.loss_curve.tolist(), network.ratio_curve.tolist(), strict=True)
    rows = (
        (epoch, *row)
        for epoch, (losses, ratios) in enumerate(curves)
        for row in zip(network.ratios.modalities, losses, ratios, strict=True)
    )
    write_csv(folder / f"{CURVE}.csv", ("epoch", "modality", "loss", "mask_ratio"), rows)
    write_png(folder / f"{CURVE}.png", curve_figure(network))


def curve_figure(network: MaskedDenoiser) -> Figure:
    """Mask ratio, and under it denoising loss, of each modality over epochs.

    Args:
        network: A pretrained network.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for place, name in enumerate(network.ratios.modalities):
        style = ("-", "--", ":", "-.")[place % 4]
        upper.plot(network.ratio_curve[:, place].numpy(), style, label=name)
        lower.plot(network.loss_curve[:, place].numpy(), style, label=name)
    upper.set_ylabel("mask ratio")
    upper.set_ylim(0, 1)
    upper.legend(frameon=False)
    lower.set_ylabel("denoising loss")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("epoch")
    return figure
