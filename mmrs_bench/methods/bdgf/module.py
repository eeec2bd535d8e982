"""The LightningModules of BDGF's two stages.

Letters: b batch, c channels, d channels of a level's features, w window side, m modality, k classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, TrainingError
from mmrs_bench.methods.bdgf.config import BdgfConfig, DenoisingConfig
from mmrs_bench.methods.bdgf.guided_branches import GuidedEnsemble, ensemble_probabilities
from mmrs_bench.methods.bdgf.modality_masking import MaskRatios, MaskTokens, random_masks
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser, modality_losses, white_loss
from mmrs_bench.methods.bdgf.mutual_learning import mutual_loss
from mmrs_bench.methods.toolkit.classification import WindowClassifier
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator

STAGE_1, STAGE_2 = "pretraining", "mutual learning"
#: Windows that the branches classify at once; bounds the memory of their features.
PREDICTION_BATCH = 64


class MaskedDenoiser(nn.Module):
    """The network of stage 1, with the state of its mask ratios and its learning curves.

    Args:
        channels: Channels by modality.
        side: Window side in pixels.
        config: Settings.

    Attributes:
        denoiser: The U-Net, which stage 2 uses.
        loss_curve, ratio_curve: Mean loss at visible positions, and mask ratio, by epoch and modality
            (pretrain_epochs, m); 0 for epochs to come.

    Raises:
        ConfigError: If the window is too small for the levels or patches, the mask ratios are invalid or would mask
            everything, or masks have to balance a single modality.
    """

    loss_curve: Tensor
    ratio_curve: Tensor

    def __init__(self, channels: dict[str, int], side: int, config: DenoisingConfig) -> None:
        super().__init__()
        if config.mask_patch > side:
            raise ConfigError(f"mask_patch {config.mask_patch} does not fit a window of {side} pixels; use 1 to {side}")
        names = ("least", "most", "temperature", "decay", "warmup", "every")
        options = {name: getattr(config, f"mask_{name}") for name in names}
        sizes = config.model_dump(include={"base", "multipliers", "blocks"})
        try:
            self.ratios = MaskRatios(channels, config.mask_rule, **options)
            self.denoiser = MultimodalDenoiser(channels, side, **sizes)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        largest, squares = self.ratios.largest(), (-(-side // config.mask_patch)) ** 2
        if round(largest * squares) == squares:
            raise ConfigError(
                f"a mask ratio of {largest:g} masks all {squares} squares of a window, which leaves nothing to learn "
                "from; lower mask_least and mask_most, or use a smaller mask_patch"
            )
        self.tokens = MaskTokens(channels)
        for name in ("loss_curve", "ratio_curve"):
            self.register_buffer(name, torch.zeros(config.pretrain_epochs, len(channels)))


class MultimodalPretrainer(L.LightningModule):
    """Stage 1: predicts the noise in the windows of all modalities, parts of which are masked.

    L = sum over modalities of w_m times the squared error of their noise, summed over visible positions and divided by
    the number of all positions. All modalities of a window have the same timestep, but their own noise and masks. The
    weights w_m sum to 1; they are proportional to the modalities' channels, or equal. With the former and without
    masks, L is DDPM's loss of the stacked image.

    Timesteps, noise and masks depend on ``seed``, epoch and step only, so that a resumed training is identical.

    Reference: BDGF, abstract; DDPM (Ho et al. 2020), equation 14; MaskDiT (Zheng et al., TMLR 2024), whose denoising
        loss is computed at visible positions too.
    Deviation: our reading of the abstract. Images have unit variance, like the noise, where diffusion models of
        photographs use the range -1 to 1.
    """

    def __init__(self, network: MaskedDenoiser, config: DenoisingConfig, *, seed: int) -> None:
        super().__init__()
        self.network = network
        self._config = config
        self._seed = seed
        channels = network.ratios.channels
        weights = channels if config.loss_weights == "channels" else torch.ones_like(channels)
        self._weights = weights / weights.sum()
        self._relative_losses: dict[str, Tensor] = {}
        self._curves: list[Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``; losses and mask ratios are logged by modality."""
        config, network, device = self._config, self.network, batch["pixel"].device
        generator = torch_generator(STAGE_1, self._seed, self.current_epoch, batch_idx, device=device.type)
        b, side = len(batch["pixel"]), network.denoiser.side
        timesteps = torch.randint(TIMESTEPS, (b,), generator=generator, device=device)
        noised, noise = network.denoiser.add_noise(batch["windows"], timesteps, generator)
        ratios = network.ratios()
        masks = random_masks(b, side, ratios, patch=config.mask_patch, whole=config.mask_whole, generator=generator)
        predicted = network.denoiser(network.tokens(noised, masks), timesteps)
        losses = modality_losses(predicted, noise, masks)
        parts = {f"loss_{name}": loss for name, loss in losses.items()}
        check_finite(STAGE_1, parts, self.global_step)
        shares = {f"mask_ratio_{name}": ratio for name, ratio in ratios.items()}
        self.log_dict({**parts, **shares}, on_step=False, on_epoch=True, batch_size=b)
        self._relative_losses = {name: loss.detach() / white_loss(timesteps) for name, loss in losses.items()}
        stacked = torch.stack(list(losses.values()))  # (m,)
        self._curves.append(torch.stack([stacked.detach().cpu(), torch.tensor(list(ratios.values()))]))
        visible = torch.stack([(~mask).float().mean() for mask in masks.values()])  # (m,)
        return (self._weights.to(stacked) * visible * stacked).sum()

    def on_after_backward(self) -> None:
        """Update the mask ratios."""
        network = self.network
        gradient = self._config.mask_rule == "gradient"
        try:
            network.ratios.observe(network.denoiser.input_gradients() if gradient else self._relative_losses)
        except ValueError as error:
            raise TrainingError(f"{STAGE_1}: at step {self.global_step}, {error}; use another mask_rule") from error

    def on_train_epoch_end(self) -> None:
        """Add the means of the epoch to the curves, before a checkpoint is written."""
        losses, ratios = torch.stack(self._curves).mean(dim=0)
        self.network.loss_curve[self.current_epoch] = losses
        self.network.ratio_curve[self.current_epoch] = ratios
        self._curves.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self._config.pretrain_rate, fused=True)


#: Windows (b, c, w, w) by modality, and their diffusion features (b, d, w, w) by level.
WindowsWithFeatures = tuple[dict[str, Tensor], list[Tensor]]


class GuidedLearner(WindowClassifier):
    """Stage 2: the branches learn the support together, and predict together.

    Args:
        network: The branches.
        config: Settings.
        read: From pixels (b,) to their features by level (b, d, w, w); None if batches have ``features``.
        unlabelled: From epoch and step to unlabelled windows; None if there are none.

    Deviation: the abstract names no optimiser; AdamW with a falling rate is ours.
    """

    def __init__(
        self,
        network: GuidedEnsemble,
        config: BdgfConfig,
        read: Callable[[Tensor], list[Tensor]] | None = None,
        unlabelled: Callable[[int, int], WindowsWithFeatures] | None = None,
    ) -> None:
        super().__init__(network, config)
        self._read = read
        self._unlabelled = unlabelled

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss (scalar) of a batch with ``windows``, their ``features`` and ``target`` (b,); logs its parts."""
        config, target = self.config, batch["target"]
        windows, features = batch["windows"], batch["features"]
        if self._unlabelled is not None:
            more, levels = self._unlabelled(self.current_epoch, batch_idx)
            windows = {name: torch.cat([window, more[name].to(window)]) for name, window in windows.items()}
            features = [torch.cat([one, other.to(one)]) for one, other in zip(features, levels, strict=True)]
        outputs = list(self.network(windows, features).values())
        weights = config.model_dump(include={"entropy_weight", "similarity_weight", "divergence_weight"})
        loss = mutual_loss(outputs, target, **weights)
        names = loss._fields if len(outputs) > 1 else ("total", "cross_entropy")
        parts = {name: getattr(loss, name) for name in names}
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(target))
        return loss.total

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Mean of the branches' softmaxes (b, k) for a batch with ``windows``, and ``features`` or ``pixel``."""
        features = batch["features"] if self._read is None else self._read(batch["pixel"])
        return ensemble_probabilities(self.network(batch["windows"], features).values())

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,) and ``windows``."""
        targets = []
        for part in torch.split(torch.arange(len(batch["pixel"])), PREDICTION_BATCH):
            windows = {name: window[part] for name, window in batch["windows"].items()}
            targets.append(self.logits({"pixel": batch["pixel"][part], "windows": windows}).argmax(dim=1))
        return torch.cat(targets)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule over the epochs."""
        config = self.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        return self.with_cosine_schedule(optimizer)
