"""The LightningModules of UniDiff: training of the denoiser on tiles (stage A), and of the pixel head (stage B).

Letters: n tiles or vectors, s side of a tile, p pictures.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmrs_bench.methods.toolkit.classification import WindowClassifier
from mmrs_bench.methods.toolkit.curves import write_curves
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion, cosine_schedule
from mmrs_bench.methods.unidiff.pictures import ANCHOR, ScenePictures, augmented, drift_tiles, picture_row
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.loader import Batch

#: The two trainings of a denoiser: names in progress, logs and checkpoints, and prefixes of their settings.
STAGE = "adapt"
SOURCE = "source"
#: Noise levels and batch size for measuring drift.
DRIFT_TIMESTEPS = (125, 375, 625, 875)
DRIFT_BATCH = 16
#: Name of the files of `write_curve`.
CURVE = "drift"


@torch.no_grad()
def denoising_loss(denoiser: AdaptedDenoiser, tiles: Tensor, row: int, *, seed: int) -> float:
    """Mean of L_simple over tiles and `DRIFT_TIMESTEPS`, without dropout.

    The noise depends on the seed only, so that denoisers are compared on the same inputs.

    Args:
        denoiser: On any device.
        tiles: (n, 3, s, s) float32 in [-1, 1], on the CPU.
        row: Row of the class embedding.
        seed: Of the noise.
    """
    generator, schedule = torch_generator(CURVE, seed), cosine_schedule()
    device, was_training = next(denoiser.parameters()).device, denoiser.training
    denoiser.eval()
    losses = []
    for timestep in DRIFT_TIMESTEPS:
        for clean in torch.split(tiles, DRIFT_BATCH):
            noise = torch.randn(clean.shape, generator=generator)
            steps, rows = (torch.full((len(clean),), value) for value in (timestep, row))
            noised: Tensor = schedule.add_noise(clean, noise, steps)  # type: ignore[attr-defined]
            output = denoiser(noised.to(device), steps.to(device), rows.to(device)).float().cpu()
            losses.append((output[:, : clean.shape[1]] - noise).square().flatten(1).mean(1))
    denoiser.train(was_training)
    return float(torch.cat(losses).mean())


class DenoiserWithCurves(nn.Module):
    """A denoiser and the curves of its training. The state dict omits frozen parameters.

    Args:
        denoiser: The denoiser.
        names: Pictures that it is trained on.
        epochs: Epochs of the training.

    Attributes:
        drift: `denoising_loss` on pseudo-RGB tiles before and after every epoch (epochs + 1,).
        loss: Mean hybrid loss by epoch and picture (epochs, p); 0 where there are no samples.
    """

    drift: Tensor
    loss: Tensor

    def __init__(self, denoiser: AdaptedDenoiser, names: tuple[str, ...], epochs: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.names = names
        self.register_buffer("drift", torch.zeros(epochs + 1))
        self.register_buffer("loss", torch.zeros(epochs, len(names)))
        self.register_state_dict_post_hook(_omit_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_accept_without_frozen)  # type: ignore[no-untyped-call]

    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen parameters."""
        return tuple(name for name, parameter in self.named_parameters() if not parameter.requires_grad)


def _omit_frozen(network: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in network.frozen():  # type: ignore[operator]
        del state[prefix + name]


def _accept_without_frozen(network: nn.Module, found: Any) -> None:
    # Missing names start with the names of the modules around this one.
    frozen = network.frozen()  # type: ignore[operator]
    found.missing_keys[:] = [name for name in found.missing_keys if not name.endswith(frozen)]


class DenoisingModule(L.LightningModule):
    """Trains a denoiser on tiles of several pictures.

    Each sample is drawn independently: picture, tile, `augmented`, timestep and noise. The loss is the hybrid loss on
    the cosine schedule; samples of the pseudo-RGB have the weight ``anchor_weight``. Losses are logged by picture.

    Reference: UniDiff, released code; `HybridDiffusion`.
    Deviation: no EMA, which UniDiff computes but does not use for features. The precision is that of the run; UniDiff
        uses float16 with loss scaling. Pictures are drawn uniformly; UniDiff draws uniformly from files of tiles, of
        which all pictures have the same number.

    Args:
        network: The denoiser to train.
        pictures: The scene, with the pictures in ``network.names``.
        config: Settings.
        stage: `STAGE`, or `SOURCE`, which has equal weights and measures no drift.
        seed: Of all samples. They are addressed by epoch and step, so a resumed training repeats them.
    """

    images: Tensor

    def __init__(
        self,
        network: DenoiserWithCurves,
        pictures: ScenePictures,
        config: AdaptationConfig,
        *,
        stage: str = STAGE,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.hybrid = HybridDiffusion()
        self.register_buffer("images", torch.cat([pictures.images[name] for name in network.names], 2), False)
        adapts = stage == STAGE
        self._grid, self._stage, self._seed, self._zoom = pictures.grid, stage, seed, config.zoom
        self._batch: int = getattr(config, f"{stage}_batch")
        self._rate: float = getattr(config, f"{stage}_rate")
        self._rows = torch.tensor([picture_row(name) for name in network.names])
        self._weights = torch.tensor(
            [config.anchor_weight if adapts and name == ANCHOR else 1.0 for name in network.names]
        )
        self._drift_tiles = drift_tiles(pictures) if adapts and ANCHOR in pictures.images else None
        self._reset_losses()
        network.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss (scalar) of newly drawn samples; the content of the batch is not used."""
        # Random numbers come from the CPU, so that they are the same on every device.
        generator = torch_generator(self._stage, self._seed, self.current_epoch, batch_idx)
        n, p = self._batch, len(self._rows)
        kinds = torch.randint(p, (n,), generator=generator)
        numbers = torch.randint(len(self._grid), (n,), generator=generator)
        stacked = self._grid.cut(self.images, numbers)  # (n, 3p, s, s)
        tiles = stacked.reshape(n, p, -1, *stacked.shape[2:])[torch.arange(n), kinds]
        clean = augmented(tiles, self._zoom, generator)
        timesteps = torch.randint(TIMESTEPS, (n,), generator=generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        output = self.network.denoiser(
            self.hybrid.add_noise(clean, noise, timesteps), timesteps, self._rows[kinds].to(clean.device)
        )
        losses = self.hybrid(output, clean, noise, timesteps).total
        counts = torch.bincount(kinds, minlength=p)
        sums = torch.zeros(p).index_add(0, kinds, losses.detach().float().cpu())
        for name, count, total in zip(self.network.names, counts.tolist(), sums, strict=True):
            if count:
                check_finite(self._stage, {f"loss_{name}": total}, self.global_step)
                self.log(f"loss_{name}", total / count, on_step=False, on_epoch=True, batch_size=count)
        self._counts += counts
        self._sums += sums
        loss: Tensor = (self._weights[kinds].to(losses) * losses).mean()
        return loss

    def on_train_epoch_start(self) -> None:
        """Measure drift before the first epoch."""
        if self.current_epoch == 0:
            self._measure_drift(0)

    def on_train_epoch_end(self) -> None:
        """Add the epoch to the curves, before a checkpoint is written."""
        self.network.loss[self.current_epoch] = self._sums / self._counts.clamp(min=1)
        self._reset_losses()
        self._measure_drift(self.current_epoch + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate, without weight decay, which would shrink unused rows of the class embedding."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self._rate, weight_decay=0.0, fused=True)

    def _measure_drift(self, epoch: int) -> None:
        if self._drift_tiles is not None:
            row = picture_row(ANCHOR)
            self.network.drift[epoch] = denoising_loss(self.network.denoiser, self._drift_tiles, row, seed=self._seed)

    def _reset_losses(self) -> None:
        self._counts = torch.zeros(len(self._rows), dtype=torch.int64)
        self._sums = torch.zeros(len(self._rows))


class HeadModule(WindowClassifier):
    """Trains a pixel head by cross-entropy over pairs of pixel and tile; batches have the ``inputs`` of the head.

    Reference: UniDiff, released code.
    """

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """Logits (n, k) of a batch with ``inputs``."""
        logits: Tensor = self.network(*batch["inputs"])
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        config = self.config
        return torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )


def write_curve(network: DenoiserWithCurves, folder: Path) -> None:
    """Write drift and losses over epochs to ``drift.csv`` and ``drift.png`` in a folder. Missing values stay empty.

    Raises:
        BenchError: If a file cannot be written.
    """
    # Row 0 is before the first epoch, without a training loss.
    values = torch.cat([network.drift[:, None], F.pad(network.loss, (0, 0, 1, 0))], dim=1)
    rows = ((epoch, *(value or "" for value in row)) for epoch, row in enumerate(values.tolist()))
    names = (CURVE, *(f"loss_{name}" for name in network.names))
    drift, *losses = values.where(values > 0, torch.nan).T
    panels = {
        "hybrid loss": dict(zip(network.names, losses, strict=True)),
        "denoising loss, pseudo-RGB": {CURVE: drift},
    }
    write_curves(folder / CURVE, ("epoch", *names), rows, panels)
