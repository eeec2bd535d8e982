"""The LightningModule of UniDiff's stage A: a diffusion model of photographs is adapted to tiles of all sensors.

Letters: n tiles, s side of a tile, p pictures.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.toolkit.curves import Curves
from mmrs_bench.methods.toolkit.sealed import tensors_sha256
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.toolkit.training import check_finite
from mmrs_bench.methods.unidiff.adm import IMAGE_CHANNELS, AdmConfig, adm_config, build_adm, zero_last_layers
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import Backbone, imagenet_backbone
from mmrs_bench.methods.unidiff.hybrid_diffusion import HybridDiffusion, denoising_losses
from mmrs_bench.methods.unidiff.pictures import ANCHOR, augmented, picture_row, picture_rows
from mmrs_bench.models.diffusion import TIMESTEPS

#: The two trainings of a denoiser: names in progress, logs, checkpoints and random streams.
STAGE = "adapt"
SOURCE = "source"
#: Name of the random stream of the noise for measuring drift.
DRIFT = "drift"
#: Entry of a checkpoint with the name of the backbone.
BACKBONE_ENTRY = "mmrs_bench_backbone"


class DenoisingModule(StageModule):
    """Trains a denoiser on tiles of several pictures.

    Batches have ``tiles`` (n, 3, s, s) in [-1, 1] and ``row`` (n,), the rows of their pictures in the class embedding;
    see `mmrs_bench.methods.unidiff.datamodule.TileDataModule`. Each tile is `augmented` and gets its own timestep and
    noise. The loss is the hybrid loss on the cosine schedule. Logs ``loss``, after an epoch ``loss_<picture>``, and
    after a validation ``val/loss``, the denoising loss at four timesteps: on pseudo-RGB tiles, its change is the drift.

    Use the result by ``checkpoint=`` of `mmrs_bench.methods.unidiff.datamodule.TileFeatureDataModule`.

    Checkpoints hold the backbone ``tiny``. Of the backbone ``imagenet``, which is a public file, they hold the adapted
    tensors and the name with its hash; loading them needs the file (``mmrs-bench weights fetch adm-imagenet-64``).

    Reference: UniDiff, released code; `HybridDiffusion`.
    Deviation: no EMA, which UniDiff computes but does not use for features. The precision is that of the trainer;
        UniDiff uses float16 with loss scaling. Pictures are drawn uniformly; UniDiff draws uniformly from files of
        tiles, of which all pictures have the same number.

    Args:
        pictures: Names of the pictures that it is trained on (``rgb``, ``pca``, ``sar``, ``lidar0``, ...).
        backbone: ``imagenet`` is OpenAI's checkpoint, ``tiny`` a small stand-in of ours.
        sizes: Fields of `mmrs_bench.methods.unidiff.adm.AdmConfig`; None takes the sizes of the backbone.
        backbone_weights: For ``tiny``, a checkpoint of this class after a training with adaptation ``full``; None
            starts such a training. For ``imagenet``, a file in OpenAI's format; None takes the fetched one.
        adaptation, lora_variant, lora_rank: Which parameters are trained, see
            `mmrs_bench.methods.unidiff.adm_adaptation.AdaptedDenoiser`.
        anchor_weight: Weight of the loss of pseudo-RGB tiles; the other pictures have weight 1.
        zoom: Largest random enlargement of a tile; 1 disables it.
        learning_rate: Of AdamW.
        stage: Name of the training in random streams and errors: ``adapt``, or ``source`` for that of ``tiny``.
        seed: Of the initial low-rank adapters and of all samples, which are addressed by epoch and step, so that a
            resumed training repeats them.

    Attributes:
        denoiser: The network.
        curves: ``drift`` (epochs + 1, 1) and ``loss`` (epochs + 1, p): ``val/loss``, and mean hybrid loss by picture,
            before the training and after every epoch; 0 where they are not measured.

    Raises:
        ConfigError: If a picture, a size or a setting is impossible.
        DataError: If a checkpoint is absent, damaged, or of another network.
    """

    def __init__(
        self,
        pictures: Sequence[str],
        *,
        backbone: Literal["imagenet", "tiny"] = "imagenet",
        sizes: dict[str, Any] | None = None,
        backbone_weights: str | None = None,
        adaptation: Literal["film", "lora", "full", "none"] = "film",
        lora_variant: Literal["lora", "rslora", "dora"] = "rslora",
        lora_rank: int = 24,
        anchor_weight: float = 1.0,
        zoom: float = 1.25,
        learning_rate: float = 0.0001,
        stage: str = STAGE,
        seed: int = 0,
    ) -> None:
        if isinstance(pictures, str) or not pictures:
            raise ConfigError(f"pictures is {pictures!r}; use a list of names, such as those of TileDataModule.names")
        super().__init__(dict.fromkeys(pictures, IMAGE_CHANNELS))
        self.save_hyperparameters(ignore=["backbone_weights"])  # a checkpoint must load without that file
        self.pictures = tuple(pictures)
        self.sizes = adm_config(backbone, sizes)
        self.backbone, self.stage, self.seed = backbone, stage, seed
        self.zoom, self.learning_rate, self.anchor_weight = zoom, learning_rate, anchor_weight
        self.adaptation, self.lora_variant, self.lora_rank = adaptation, lora_variant, lora_rank
        self._rows = torch.tensor(picture_rows(self.pictures, self.sizes.classes))
        self.hybrid = HybridDiffusion()
        self.validation_loss = MeanMetric()
        self.curves = Curves({"drift": 1, "loss": len(self.pictures)})
        self.register_state_dict_post_hook(_omit_public)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_accept_without_public)  # type: ignore[no-untyped-call]
        self._reset_losses()
        self.use_backbone(_backbone(backbone, self.sizes, backbone_weights))

    def use_backbone(self, backbone: Backbone) -> None:
        """Start from these weights; frozen parameters share their memory."""
        self.denoiser = AdaptedDenoiser(
            backbone.network,
            backbone.weights,
            self.adaptation,
            backbone=backbone.name,
            lora_variant=self.lora_variant,
            lora_rank=self.lora_rank,
            seed=self.seed,
        ).train()

    def as_backbone(self) -> Backbone:
        """The trained network as the backbone ``tiny``; only after adaptation ``full``.

        Raises:
            ConfigError: If it has adapters, or is not ``tiny``.
        """
        if (self.backbone, self.adaptation) != ("tiny", "full"):
            raise ConfigError(
                f"a backbone must be a tiny network trained with adaptation full, not {self.backbone} with adaptation "
                f"{self.adaptation}; train it with TileDataModule(pictures=['rgb']), and pass its checkpoint"
            )
        weights = {name: tensor.detach().cpu() for name, tensor in self.denoiser.network.state_dict().items()}
        return Backbone(self.sizes, weights, f"adm-tiny {tensors_sha256(weights)}")

    def public_parameters(self) -> tuple[str, ...]:
        """Names of the parameters that checkpoints omit: frozen ones of the backbone ``imagenet``."""
        named = self.named_parameters() if self.backbone == "imagenet" else ()
        return tuple(name for name, parameter in named if not parameter.requires_grad)

    def forward(self, noised: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        """Noise and variance (n, 6, s, s); see `AdaptedDenoiser.forward`."""
        output: Tensor = self.denoiser(noised, timesteps, rows)
        return output

    def on_fit_start(self) -> None:
        """Refuse trainings that cannot be meant.

        Raises:
            ConfigError: If nothing is trained, or an untrained ``tiny`` is to be adapted.
        """
        if self.adaptation != "full" and not self.denoiser.backbone:
            raise ConfigError(
                f"adaptation {self.adaptation} of an untrained tiny backbone; train one with adaptation full on rgb "
                "tiles, and pass its checkpoint as backbone_weights"
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        tiles, rows = self._tiles_of(batch)
        n = len(tiles)
        # On the CPU, so that the numbers are the same on every device.
        random = self.random(self.stage, self.seed, self.current_epoch, batch_idx)
        for _ in range(2):  # of this stream, TileDataModule uses these numbers to choose pictures and tiles
            random.integers(2, n)
        clean = augmented(tiles, self.zoom, random)
        timesteps = random.integers(TIMESTEPS, n).to(clean.device)
        noise = random.normal(*clean.shape).to(clean.device)
        output = self(self.hybrid.add_noise(clean, noise, timesteps), timesteps, rows)
        losses = self.hybrid(output, clean, noise, timesteps).total
        kinds = (rows.cpu()[:, None] == self._rows).int().argmax(dim=1)
        counts = torch.bincount(kinds, minlength=len(self.pictures))
        sums = torch.zeros(len(self.pictures), dtype=torch.float32).index_add(0, kinds, losses.detach().float().cpu())
        for name, total in zip(self.pictures, sums, strict=True):
            check_finite(self.stage, {f"loss_{name}": total}, self.global_step)
        self._counts += counts
        self._sums += sums
        anchors = rows == picture_row(ANCHOR)
        loss: Tensor = (losses * torch.where(anchors, self.anchor_weight, 1.0)).mean()
        self.log("loss", loss, batch_size=n)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the losses by picture and add them to the curves, before a checkpoint is written."""
        own = torch.stack([self._sums, self._counts]).to(self.device)
        sums, counts = self.trainer.strategy.reduce(own, reduce_op="sum").cpu()
        means = sums / counts.clamp(min=1)
        self.log_dict({f"loss_{self.pictures[k]}": means[k] for k in counts.nonzero()[:, 0].tolist()})
        self.curves.record(self.current_epoch + 1, loss=means)
        self._reset_losses()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Update and log the `denoising_losses`."""
        tiles, rows = self._tiles_of(batch, known_rows=False)
        self.validation_loss.update(denoising_losses(self.denoiser, tiles, rows, self.random(DRIFT, self.seed)))
        self.log("val/loss", self.validation_loss, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        """Add the loss to the curve; a sanity check before the training is its beginning."""
        checking = self.trainer.sanity_checking
        if self.trainer.state.fn == "fit" and not (checking and self.global_step):  # not when a training is resumed
            epoch = 0 if checking else self.current_epoch + 1
            self.curves.record(epoch, drift=self.validation_loss.compute()[None])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate, without weight decay, which would shrink unused rows of the class embedding.

        Raises:
            ConfigError: If no parameter is trained.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not trained:
            raise ConfigError("adaptation none trains nothing; use film, lora or full, or skip stage A")
        return torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0, fused=self.fused)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the name of the backbone."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[BACKBONE_ENTRY] = self.denoiser.backbone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints that were trained on another public backbone."""
        super().on_load_checkpoint(checkpoint)
        name = checkpoint.get(BACKBONE_ENTRY, "")
        if self.backbone == "imagenet" and name != self.denoiser.backbone:
            raise DataError(
                f"the checkpoint was trained on the backbone {name or 'unknown'}, but this one is "
                f"{self.denoiser.backbone}; fetch that backbone, or repeat the adaptation"
            )
        self.denoiser.backbone = name

    def _tiles_of(self, batch: Mapping[str, Any], *, known_rows: bool = True) -> tuple[Tensor, Tensor]:
        """Tiles and rows of a batch, after checking them."""
        if not {"tiles", "row"} <= batch.keys():
            raise ConfigError(
                "DenoisingModule needs batches with tiles (n, 3, s, s) and row (n,), the rows of their pictures; use "
                "the loaders of a TileDataModule"
            )
        tiles, rows = batch["tiles"], batch["row"]
        halved = 2 ** (len(self.sizes.multipliers) - 1)
        if tiles.shape[1] != IMAGE_CHANNELS or any(side % halved for side in tiles.shape[2:]):
            raise ConfigError(
                f"tiles are {[*tiles.shape]}, expected (n, 3, s, s) with s a multiple of {halved}; set tile of the "
                "TileDataModule to one"
            )
        unknown = set(rows.tolist()) - set(self._rows.tolist())
        if known_rows and unknown:
            raise ConfigError(
                f"the module is built for pictures {', '.join(self.pictures)} with rows {self._rows.tolist()}, but a "
                f"batch has row {min(unknown)}; build it with pictures=data.names of the TileDataModule"
            )
        return tiles, rows

    def _reset_losses(self) -> None:
        self._counts = torch.zeros(len(self.pictures), dtype=torch.int64)
        self._sums = torch.zeros(len(self.pictures))


def _backbone(kind: str, sizes: AdmConfig, weights: str | None) -> Backbone:
    """The weights to start from; the name of untrained ones is empty."""
    if kind == "imagenet":
        return imagenet_backbone(sizes, None if weights is None else Path(weights))
    if weights is not None:
        source = DenoisingModule.load_from_checkpoint(weights).as_backbone()
        if source.network != sizes:
            raise DataError(f"{weights}: its network has other sizes ({source.network}); pass the same sizes")
        return Backbone(*source)
    unet = build_adm(sizes)
    zero_last_layers(unet)
    return Backbone(sizes, unet.state_dict(), "")


def _omit_public(module: Any, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in module.public_parameters():
        del state[prefix + name]


def _accept_without_public(module: Any, found: Any) -> None:
    # Missing names start with the names of the modules around this one.
    public = module.public_parameters()
    found.missing_keys[:] = [name for name in found.missing_keys if not (public and name.endswith(public))]
