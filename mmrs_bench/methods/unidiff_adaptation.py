"""UniDiff's first stage: one diffusion model of photographs adapted to all sensors of a scene, without labels.

Tiles of all pictures of the scene are mixed; the pseudo-RGB among them, which look most like photographs, are to keep
the model from forgetting these (anchoring). How much it forgets is measured: the denoising loss on pseudo-RGB tiles.

Letters: n tiles, s side of a tile, h w rows and columns of the scene, p pictures.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from mmrs_bench.errors import ConfigError, TrainingError, unknown_name
from mmrs_bench.io import atomic_write, file_sha256, write_text
from mmrs_bench.methods import training
from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.pretraining_cache import pretrained
from mmrs_bench.models.adm import ADM_64, ADM_TINY, AdmConfig, build_adm, zero_last_layers
from mmrs_bench.models.adm_adaptation import AdaptedDenoiser, LoraOptions
from mmrs_bench.models.adm_checkpoint import checkpoint_file, pretrained_weights
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.models.hybrid_diffusion import HybridDiffusion, cosine_schedule
from mmrs_bench.randomness import derive_seed, torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, LoaderView, PixelLoader
from mmrs_bench.scenes.sensor_images import GREY, sensor_images
from mmrs_bench.scenes.tiles import TileGrid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The two trainings, in progress, logs and checkpoints; also what the names of their settings begin with.
STAGE = "adapt"
SOURCE = "source"
#: Raised when the same settings would train to other weights, so that no old ones are read again.
ADAPTATION_VERSION = 1
#: A checkpoint is written about so many times in a training.
CHECKPOINTS = 20
#: The picture that anchors.
ANCHOR = "rgb"
#: Rows of the class embedding by picture; those of several rasters count on from here.
ROWS = {"rgb": 1, "pca": 2, "sar": 3, "dsm": 4, "lidar": 4}
#: Tiles at most, noise levels and size of a batch with which drift is measured.
DRIFT_TILES = 32
DRIFT_TIMESTEPS = (125, 375, 625, 875)
DRIFT_BATCH = 16
#: Names of the curves' files, without their endings.
CURVE = "drift"


class AdaptationConfig(MethodConfig):
    """Settings of the first stage; all of them may decide its weights.

    Reference: UniDiff, released code: tiles of 64 with stride 32, enlargements up to 1.25, AdamW with batch 32 and rate
        1e-4, 2,000 steps on Berlin and 1,500 on Augsburg.

    Attributes:
        backbone: ``imagenet`` is OpenAI's checkpoint; ``tiny`` a small network trained on the scene's pseudo-RGB tiles
            alone, a stand-in of ours for machines that cannot do more, which knows no photographs.
        pictures: Kinds that the network sees (``rgb``, ``pca``, ``sar``, ``dsm``, ``lidar``, the last two for all
            rasters of theirs); empty takes all of the scene.
        tile: Side of a tile in pixels.
        stride: Pixels from one tile to the next.
        adaptation: What learns, see `mmrs_bench.models.adm_adaptation.AdaptedDenoiser`; ``none`` leaves this stage out.
        lora_variant, lora_rank: See `mmrs_bench.models.adm_adaptation.LoraOptions`.
        anchored: Whether pseudo-RGB tiles are part of the mixture.
        anchor_weight: Weight of their loss beside that of each other picture.
        adapt_epochs: Epochs, after each of which drift is measured.
        epoch_steps: Steps of an epoch, here and in the source training.
        adapt_batch: Tiles of a step.
        adapt_rate: AdamW's learning rate.
        zoom: Largest enlargement of a tile before it is cropped; 1 crops nothing. Also of the source training.
        source_epochs, source_batch, source_rate: Of ``tiny``'s own training; sizes are ours.
    """

    backbone: Literal["imagenet", "tiny"] = "imagenet"
    pictures: tuple[str, ...] = ()
    tile: int = Field(default=64, ge=8, multiple_of=8)  # the networks halve it three times
    stride: int = Field(default=32, ge=1)
    adaptation: Literal["film", "lora", "full", "none"] = "film"
    lora_variant: Literal["lora", "rslora", "dora"] = "rslora"
    lora_rank: int = Field(default=24, ge=1)
    anchored: bool = True
    anchor_weight: float = Field(default=1.0, gt=0)
    adapt_epochs: int = Field(default=40, ge=1)
    epoch_steps: int = Field(default=50, ge=1)
    adapt_batch: int = Field(default=32, ge=1)
    adapt_rate: float = Field(default=1e-4, gt=0)
    zoom: float = Field(default=1.25, ge=1)
    source_epochs: int = Field(default=40, ge=1)
    source_batch: int = Field(default=32, ge=1)
    source_rate: float = Field(default=3e-4, gt=0)


class ScenePictures(NamedTuple):
    """What the network sees of a scene.

    Attributes:
        images: Pictures (h, w, 3) float32 in [-1, 1] by name, on the CPU.
        grid: The tiles that they are cut into.
        sha256: Of names and pictures.
    """

    images: dict[str, Tensor]
    grid: TileGrid
    sha256: str


class Backbone(NamedTuple):
    """A network of which few parameters are to be adapted, or none.

    Attributes:
        network: Its sizes.
        weights: All its tensors, on the CPU; nobody may change them in place.
        name: Tells it from all others, by a hash of its weights or of the file that they are from.
    """

    network: AdmConfig
    weights: Mapping[str, Tensor]
    name: str


class Adaptation(NamedTuple):
    """What stage A gives.

    Attributes:
        denoiser: Adapted, in evaluation mode, on the CPU.
        backbone: What it stands on.
        drift: `denoising_loss` on pseudo-RGB tiles before and after every epoch (adapt_epochs + 1,); zeros if it was
            not measured: there was no adaptation, or no pseudo-RGB is seen.
    """

    denoiser: AdaptedDenoiser
    backbone: Backbone
    drift: Tensor


def picture_row(name: str) -> int:
    """The row of the class embedding that stands for a picture.

    Rows start from what the checkpoint knows as these classes of ImageNet.

    Reference: UniDiff, released code: pseudo-RGB 1, PCA 2, SAR 3, DSM 4.
    Deviation: LiDAR, which the paper's scenes do not have, counts as DSM, and further rasters of either count on
        (``lidar0`` is 4, ``lidar1`` 5).

    Args:
        name: As in `mmrs_bench.scenes.sensor_images.sensor_images`.

    Raises:
        ConfigError: If there is no such picture.
    """
    kind = _kind(name)
    if kind not in ROWS or (name != kind and kind not in GREY):
        raise unknown_name("picture", name, ROWS)
    return ROWS[kind] + int(name[len(kind) :] or 0)


def scene_pictures(config: AdaptationConfig, data: SceneDataModule) -> ScenePictures:
    """The pictures of a scene that the network sees.

    Raises:
        ConfigError: If the protocol hides pixels or bands that pictures show, a kind in ``pictures`` is not there, the
            pseudo-RGB is needed and not seen, anchoring is left out and leaves nothing, pictures share a row of
            the class embedding or are more than it has, or tiles do not fit the scene. See also `sensor_images`.
        DataError: See `sensor_images`.
    """
    protocol, scene = data.config, data.scene.manifest.id
    if protocol.pca is not None or {protocol.normalisation_scope, protocol.unlabelled} != {"scene"}:
        raise ConfigError(
            f"pca {protocol.pca}, normalisation_scope {protocol.normalisation_scope}, unlabelled {protocol.unlabelled}:"
            " pictures show raw bands of the whole scene; set pca to none and both others to scene"
        )
    shown = sensor_images(data.scene, data.modalities)
    for wanted in config.pictures:
        if not any(wanted in (name, _kind(name)) for name in shown):
            raise unknown_name(f"picture of scene {scene}", wanted, {*shown, *map(_kind, shown)})
    images = {
        name: torch.from_numpy(image)
        for name, image in shown.items()
        if not config.pictures or name in config.pictures or _kind(name) in config.pictures
    }
    seen, adapts = ", ".join(images), config.adaptation != "none"
    if ANCHOR not in images and (config.backbone == "tiny" or (config.anchored and adapts)):
        raise ConfigError(
            f"scene {scene}: the network sees {seen}, but anchoring and the backbone tiny need the pseudo-RGB too; add "
            "rgb to pictures and hsi to the modalities, or set anchored to false with backbone imagenet"
        )
    if adapts and not config.anchored and set(images) == {ANCHOR}:
        raise ConfigError(f"scene {scene}: without anchoring no picture but rgb is seen; add others, or anchor")
    rows, classes = [picture_row(name) for name in images], _network(config).classes
    if len(set(rows)) < len(rows) or max(rows) >= classes:
        raise ConfigError(
            f"scene {scene}: {seen} would be rows {rows} of the class embedding, expected different ones below "
            f"{classes}; name fewer in pictures"
        )
    return _pictures(images, TileGrid(data.scene.height, data.scene.width, config.tile, config.stride))


def _pictures(images: dict[str, Tensor], grid: TileGrid) -> ScenePictures:
    digest = hashlib.sha256()
    for name, image in images.items():
        digest.update(f"{name} {[*image.shape]} ".encode())
        digest.update(image.numpy().tobytes())
    return ScenePictures(images, grid, digest.hexdigest())


def anchor_tiles(pictures: ScenePictures) -> Tensor:
    """Pseudo-RGB tiles (n, 3, s, s) on which drift is measured: at most `DRIFT_TILES`, spread evenly over the scene."""
    count = len(pictures.grid)
    numbers = torch.linspace(0, count - 1, min(count, DRIFT_TILES)).round().long()
    return pictures.grid.cut(pictures.images[ANCHOR], numbers)


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


def augmented(tiles: Tensor, zoom: float, generator: torch.Generator) -> Tensor:
    """Tiles enlarged, cropped to their size again, and flipped from left to right, each at random by itself.

    Args:
        tiles: (n, c, s, s) on any device.
        zoom: Enlargements are uniform from 1 to this, places of the crop and coins for the flip uniform.
        generator: On the CPU; draws enlargements, then corners, then flips.

    Returns:
        (n, c, s, s).

    Reference: UniDiff, released code: the short side becomes 64 to 80 pixels, of which 64 are cropped.
    Deviation: enlargements and corners are not rounded to whole pixels.
    """
    n, side = len(tiles), tiles.shape[-1]
    share = 1 / (1 + (zoom - 1) * torch.rand(n, 1, generator=generator))  # the crop's side, of the tile's
    corner = (1 - share) * torch.rand(n, 2, generator=generator)  # row and column, likewise
    mirrored = 1 - 2 * torch.randint(2, (n, 1), generator=generator)
    # Middles of pixels in (-1, 1), as grid_sample takes them; its affine_grid would round them under bf16-mixed.
    middles = (2 * torch.arange(side) + 1) / side - 1
    rows = 2 * corner[:, :1] + share - 1 + share * middles  # (n, s)
    columns = 2 * corner[:, 1:] + share - 1 + share * mirrored * middles
    shape = (n, side, side)
    places = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    return functional.grid_sample(tiles, places.to(tiles), padding_mode="border", align_corners=False)


def adapted_denoiser(config: AdaptationConfig, data: SceneDataModule, context: RunContext) -> Adaptation:
    """Stage A of a scene: trained, or read from the cache if another cell has done it.

    Args:
        config: Settings; others of a subclass have no say.
        data: The scene.
        context: The cell's; its draw has no say.

    Raises:
        ConfigError: See `scene_pictures` and `AdaptedDenoiser`; told before any training.
        DataError: If the checkpoint is absent, with the command that fetches it, or damaged, or if the cache holds a
            damaged file for this stage.
        TrainingError: If a loss is not a number.
        BenchError: If the cache cannot be written.
    """
    if config.backbone == "imagenet":
        imagenet_backbone()  # tell that it is missing before the scene is read
    pictures = scene_pictures(config, data)
    backbone = scene_backbone(config, pictures, data, context)
    if config.adaptation == "none":
        return Adaptation(denoiser_on(backbone, config, seed=0), backbone, torch.zeros(config.adapt_epochs + 1))
    names = tuple(name for name in pictures.images if config.anchored or name != ANCHOR)

    def build() -> StageA:
        return StageA(denoiser_on(backbone, config, seed=context.seed), names, config.adapt_epochs)

    def train(network: StageA, context: RunContext) -> None:
        _train(network, pictures, config, STAGE, context)
        write_curve(network, context.work_dir / "logs")

    address = {
        "method": "unidiff",
        "version": ADAPTATION_VERSION,
        "scene": data.scene.manifest.id,
        "pictures": pictures.sha256,
        "backbone": backbone.name,
        "network": asdict(backbone.network),
        "settings": {name: getattr(config, name) for name in AdaptationConfig.model_fields},
    }
    network = pretrained(address, build, train, context)
    return Adaptation(network.denoiser, backbone, network.drift)


def denoiser_on(backbone: Backbone, config: AdaptationConfig, *, seed: int) -> AdaptedDenoiser:
    """A denoiser as ``config`` adapts it, before any adaptation.

    Args:
        backbone: Shared, never changed.
        config: Settings.
        seed: Of initial values, where there are any (``lora``).
    """
    return AdaptedDenoiser(
        backbone.network,
        backbone.weights,
        config.adaptation,
        backbone=backbone.name,
        lora=LoraOptions(config.lora_variant, config.lora_rank),
        seed=derive_seed("lora", seed),
    )


def imagenet_backbone() -> Backbone:
    """OpenAI's checkpoint, memory-mapped.

    Raises:
        DataError: If it is absent, with the command that fetches it, or damaged.
    """
    weights = pretrained_weights(ADM_64)
    return Backbone(ADM_64, weights, f"adm-imagenet-64 {_sha256(checkpoint_file())}")


def scene_backbone(
    config: AdaptationConfig, pictures: ScenePictures, data: SceneDataModule, context: RunContext
) -> Backbone:
    """The network that is adapted: the checkpoint, or ``tiny``, trained or read from the cache.

    What is adapted to which pictures, and how, has no say in ``tiny``: all settings of that share it.

    Args:
        config: Settings.
        pictures: The scene's, with the pseudo-RGB for ``tiny``.
        data: The scene.
        context: The cell's; its draw has no say.

    Raises:
        ConfigError, DataError, TrainingError, BenchError: See `adapted_denoiser`.
    """
    if config.backbone == "imagenet":
        return imagenet_backbone()
    photographs = _pictures({ANCHOR: pictures.images[ANCHOR]}, pictures.grid)

    def build() -> StageA:
        unet = build_adm(ADM_TINY)
        zero_last_layers(unet)
        denoiser = AdaptedDenoiser(ADM_TINY, unet.state_dict(), "full", backbone="")
        return StageA(denoiser, (ANCHOR,), config.source_epochs)

    def train(network: StageA, context: RunContext) -> None:
        _train(network, photographs, config, SOURCE, context)

    settings = ("tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate")
    address = {
        "method": "adm-tiny",
        "version": ADAPTATION_VERSION,
        "scene": data.scene.manifest.id,
        "pictures": photographs.sha256,
        "network": asdict(ADM_TINY),
        "settings": {name: getattr(config, name) for name in settings},
    }
    weights = pretrained(address, build, train, context).denoiser.network.state_dict()
    return Backbone(ADM_TINY, weights, f"adm-tiny {hashlib.sha256(save(weights)).hexdigest()}")


def write_curve(network: StageA, folder: Path) -> None:
    """Write drift and losses over epochs: ``drift.csv`` and, drawn, ``drift.png``. What was not measured stays empty.

    Args:
        network: An adapted network.
        folder: Where the files go.

    Raises:
        BenchError: If they cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("epoch", CURVE, *(f"loss_{name}" for name in network.names)))
    # Row 0 is before the first epoch, when there is no training loss.
    losses = [[0.0] * len(network.names), *network.loss.tolist()]
    for epoch, (drift, row) in enumerate(zip(network.drift.tolist(), losses, strict=True)):
        writer.writerow((epoch, *(value or "" for value in (drift, *row))))
    write_text(folder / f"{CURVE}.csv", text.getvalue())
    figure = curve_figure(network)
    atomic_write(folder / f"{CURVE}.png", lambda file: figure.savefig(file, format="png", dpi=150))


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


def _train(network: StageA, pictures: ScenePictures, config: AdaptationConfig, stage: str, context: RunContext) -> None:
    epochs: int = getattr(config, f"{stage}_epochs")
    steps = PixelLoader(np.arange(config.epoch_steps), batch_size=1)
    training.fit(
        DiffusionAdapter(network, pictures, config, stage=stage, seed=context.seed),
        LoaderView(_as_it_is, steps, None, None),
        context,
        stage=stage,
        epochs=epochs,
        checkpoint_every=max(1, epochs // CHECKPOINTS),
    )


def _as_it_is(batch: Batch, *, augment: bool = False) -> dict[str, Any]:
    """No windows: the step cuts its tiles itself."""
    return dict(batch)


def _network(config: AdaptationConfig) -> AdmConfig:
    return ADM_64 if config.backbone == "imagenet" else ADM_TINY


def _kind(name: str) -> str:
    """A picture's name without the number of its raster."""
    return name.rstrip("0123456789")


@cache
def _sha256(path: Path) -> str:
    return file_sha256(path)
