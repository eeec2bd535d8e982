"""The training of UniDiff's first stage: noise told in tiles of several sensors, and the curves of what is forgotten.

Letters: n tiles, s side of a tile, p pictures.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mmrs_bench.errors import TrainingError
from mmrs_bench.io import write_csv, write_png
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion, cosine_schedule
from mmrs_bench.methods.unidiff.pictures import ANCHOR, ScenePictures, anchor_tiles, augmented, picture_row
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.loader import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The two trainings, in progress, logs and checkpoints; also what the names of their settings begin with.
STAGE = "adapt"
SOURCE = "source"
#: Noise levels and size of a batch with which drift is measured.
DRIFT_TIMESTEPS = (125, 375, 625, 875)
DRIFT_BATCH = 16
#: Names of the curves' files, without their endings.
CURVE = "drift"


@torch.no_grad()
def denoising_loss(denoiser: AdaptedDenoiser, tiles: Tensor, row: int, *, seed: int) -> float:
    """How badly a denoiser tells the noise in tiles: the mean of L_simple, without dropout.

    Every tile at every one of `DRIFT_TIMESTEPS`, with a noise of its own that hangs on the seed only: denoisers are
    compared on the very same task.

    Args:
        denoiser: On any device.
        tiles: (n, 3, s, s) float32 in [-1, 1], on the CPU.
        row: Row of the class embedding.
        seed: Of the noise.

    Raises:
        ValueError: If there are no tiles.
        TrainingError: If the loss is not a number.
    """
    if not len(tiles):
        raise ValueError("there are no tiles; give at least one to measure a denoising loss")
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
    loss = float(torch.cat(losses).mean())
    if not np.isfinite(loss):
        raise TrainingError(
            f"the denoising loss on {len(tiles)} tiles is {loss}, so the denoiser has diverged; lower adapt_rate (or "
            "source_rate, of backbone tiny)"
        )
    return loss


class StageA(nn.Module):
    """A denoiser and the curves of its training, of which nothing but these and what learns is kept.

    The state dict, and so cache and checkpoints, leave the frozen backbone out.

    Args:
        denoiser: The denoiser.
        names: Pictures of the mixture.
        epochs: Epochs of the training.

    Attributes:
        drift: See `Adaptation`.
        loss: Mean hybrid loss by epoch and picture (epochs, p); 0 for epochs to come, and where none was drawn.
    """

    drift: Tensor
    loss: Tensor

    def __init__(self, denoiser: AdaptedDenoiser, names: tuple[str, ...], epochs: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.names = names
        self.register_buffer("drift", torch.zeros(epochs + 1))
        self.register_buffer("loss", torch.zeros(epochs, len(names)))
        self.register_state_dict_post_hook(_leave_out_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_miss_no_frozen)  # type: ignore[no-untyped-call]

    def frozen(self) -> tuple[str, ...]:
        """Names of the parameters that do not learn."""
        return tuple(name for name, parameter in self.named_parameters() if not parameter.requires_grad)


def _leave_out_frozen(network: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in network.frozen():  # type: ignore[operator]
        del state[prefix + name]


def _miss_no_frozen(network: nn.Module, found: Any) -> None:
    # Names begin with those of the modules around this one.
    frozen = network.frozen()  # type: ignore[operator]
    found.missing_keys[:] = [name for name in found.missing_keys if not name.endswith(frozen)]


class DiffusionAdapter(L.LightningModule):
    """Learns to tell the noise in tiles of several sensors.

    Every sample is drawn by itself: a picture, a tile, `augmented`, a timestep, noise. The loss is the hybrid one with
    learned variance on the cosine schedule; pseudo-RGB samples are weighted by ``anchor_weight``. Dropout acts as in
    ADM's own training. Losses are logged by picture.

    Reference: UniDiff, released code; `HybridDiffusion`.

    Deviation: no EMA, which UniDiff keeps but takes no features from; precision is the run's, where UniDiff has float16
        with loss scaling. Pictures are drawn uniformly, where UniDiff draws uniformly from files of tiles; these are
        equally many.

    Args:
        network: What learns.
        pictures: The scene, with the pictures that ``network`` names.
        config: Settings.
        stage: `STAGE`, or `SOURCE`, which weighs all alike and measures no drift.
        seed: Seed of all samples; they are addressed by step, so a resumed training repeats them.
    """

    images: Tensor

    def __init__(
        self, network: StageA, pictures: ScenePictures, config: AdaptationConfig, *, stage: str = STAGE, seed: int
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
        self._watched = anchor_tiles(pictures) if adapts and ANCHOR in pictures.images else None
        self._forget()
        network.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss (scalar) of a step's own samples; the batch only counts."""
        # Numbers come from the CPU, so that they are the same on every device.
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
        loss: Tensor = (self._weights[kinds].to(losses) * losses).mean()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"{self._stage}: the loss is {float(loss.detach())} at step {self.global_step}; lower "
                f"{self._stage}_rate from {self._rate:g}"
            )
        counts = torch.bincount(kinds, minlength=p)
        sums = torch.zeros(p).index_add(0, kinds, losses.detach().float().cpu())
        for name, count, total in zip(self.network.names, counts.tolist(), sums, strict=True):
            if count:
                self.log(f"loss_{name}", total / count, on_step=False, on_epoch=True, batch_size=count)
        self._counts += counts
        self._sums += sums
        return loss

    def on_train_epoch_start(self) -> None:
        """Measure drift before anything is learned."""
        if self.current_epoch == 0:
            self._measure(0)

    def on_train_epoch_end(self) -> None:
        """Put the epoch into the curves, before a checkpoint is written."""
        self.network.loss[self.current_epoch] = self._sums / self._counts.clamp(min=1)
        self._forget()
        self._measure(self.current_epoch + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate without weight decay, which would shrink the rows of other classes."""
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learning, lr=self._rate, weight_decay=0.0, fused=True)

    def _measure(self, epoch: int) -> None:
        if self._watched is not None:
            row = picture_row(ANCHOR)
            self.network.drift[epoch] = denoising_loss(self.network.denoiser, self._watched, row, seed=self._seed)

    def _forget(self) -> None:
        self._counts = torch.zeros(len(self._rows), dtype=torch.int64)
        self._sums = torch.zeros(len(self._rows))


def write_curve(network: StageA, folder: Path) -> None:
    """Write drift and losses over epochs: ``drift.csv`` and, drawn, ``drift.png``. What was not measured stays empty.

    Args:
        network: An adapted network.
        folder: Where the files go.

    Raises:
        BenchError: If they cannot be written.
    """
    # Row 0 is before the first epoch, when there is no training loss.
    losses = [[0.0] * len(network.names), *network.loss.tolist()]
    rows = (
        (epoch, *(value or "" for value in (drift, *row)))
        for epoch, (drift, row) in enumerate(zip(network.drift.tolist(), losses, strict=True))
    )
    write_csv(folder / f"{CURVE}.csv", ("epoch", CURVE, *(f"loss_{name}" for name in network.names)), rows)
    write_png(folder / f"{CURVE}.png", curve_figure(network))


def curve_figure(network: StageA) -> Figure:
    """Loss of each picture, and under it the denoising loss on pseudo-RGB, over epochs.

    Args:
        network: An adapted network.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for place, name in enumerate(network.names):
        losses = network.loss[:, place]
        drawn = losses > 0
        upper.plot((1 + drawn.nonzero()[:, 0]).numpy(), losses[drawn].numpy(), ".-", label=name)
    upper.set_ylabel("hybrid loss")
    upper.legend(frameon=False)
    if network.drift.any():
        lower.plot(network.drift.numpy(), ".-k")
    lower.set_ylabel("denoising loss, pseudo-RGB")
    lower.set_xlabel("epochs done")
    return figure
