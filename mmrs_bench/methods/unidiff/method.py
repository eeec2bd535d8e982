"""UniDiff and GeoDiffNet-F: pixels classified from features of one diffusion model of photographs.

Stage A, `mmrs_bench.methods.unidiff.adaptation`, adapts the model to the scene's pictures without labels. Stage B,
here, freezes it, takes the activations of one decoder block at one noise level
(`mmrs_bench.methods.unidiff.features`), and trains a small head on the vectors of the support pixels.

Letters: n pairs of a pixel and a tile that it lies in, s side of a tile, d features of a pair, c bands of the HSI,
k classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.methods.base import Method, ParameterCounts
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import REFIT_ADVICE, Blueprint, load_network, save_network
from mmrs_bench.methods.unidiff.adaptation import Backbone, adapted_denoiser, denoiser_on, imagenet_backbone
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.features import TileFeatures
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.methods.unidiff.pixel_heads import PixelMLP, SpectralFilm
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, LoaderView, PixelLoader
from mmrs_bench.scenes.scene import IntArray

#: Also of the files of head and settings.
NAME = "unidiff"
ADAPTERS_FILE = "adapters.safetensors"
#: Saved for ``tiny`` only: everyone has the checkpoint, nobody else has these.
BACKBONE_FILE = "backbone.safetensors"
VALIDATION_METRIC = "validation_accuracy"
STAGE = "head"


class UniDiffConfig(AdaptationConfig):
    """Settings of `UniDiff`: those of stage A, and these.

    Attributes:
        timestep: How much noise the pictures get before features are taken.
        block: Decoder block whose activations are the features, see `AdaptedDenoiser.features`.
        head: ``mlp`` (UniDiff), or ``spectral-film`` (GeoDiffNet-F), which also sees the spectrum.
        hidden: Sizes of the hidden layers of ``mlp``.
        epochs: Passes over the pairs of the support; the last one is kept.
        batch_size: Pairs of a step, 3 or more: batch normalisation has no use for a batch of one.
        learning_rate, weight_decay: Adam's.
    """

    timestep: int = Field(default=0, ge=0, lt=TIMESTEPS)
    block: int = Field(default=10, ge=0, validate_default=True)
    head: Literal["mlp", "spectral-film"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (128,)
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=32, ge=3)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)

    @field_validator("block")
    @classmethod
    def _exists(cls, block: int, info: ValidationInfo) -> int:
        network = ADM_TINY if info.data.get("backbone") == "tiny" else ADM_64
        count = len(network.multipliers) * (network.blocks + 1)
        if block >= count:
            raise ValueError(f"the decoder of this backbone has the blocks 0 to {count - 1}")
        return block


class PixelHead(L.LightningModule):
    """Trains a head by cross-entropy over pairs: a pixel counts once for every tile that it lies in.

    Reference: UniDiff, released code.

    Args:
        head: The head.
        config: Settings.
    """

    def __init__(self, head: nn.Module, config: UniDiffConfig) -> None:
        super().__init__()
        self.head = head
        self._config = config

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy (scalar) of a batch with the head's ``inputs`` and ``target`` (n,)."""
        loss = functional.cross_entropy(self.head(*batch["inputs"]), batch["target"])
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the accuracy over pairs, as the released code selects; runs only under ``paper-val``."""
        correct = self.head(*batch["inputs"]).argmax(dim=1) == batch["target"]
        self.log(VALIDATION_METRIC, correct.float().mean(), batch_size=len(correct))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam at a constant rate."""
        config = self._config
        return torch.optim.Adam(
            self.head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )


class UniDiff(Method):
    """A small head on features of a frozen diffusion model that has been adapted to the scene's sensors.

    A pixel's class is the one with the largest mean of softmaxes over the tiles that it lies in.

    Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code; GeoDiffNet-F (arXiv
        2512.03430), which adapts nothing, sees the pseudo-RGB only, and scales features by the spectrum.

    Deviation: a fixed number of epochs, the last of which is kept. UniDiff's code stops and selects by 30 % of the test
        pixels (``paper-val`` selects by the 200 pixels of the protocol), GeoDiffNet's stops by the training loss.
        Spectra are those of the protocol's normalisation.
    """

    Config = UniDiffConfig

    _denoiser: AdaptedDenoiser
    _backbone: Backbone
    _head: nn.Module
    _blueprint: Blueprint

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`: stage A, read from the cache if another cell has done it.

        Raises:
            ConfigError, DataError, TrainingError, BenchError: See
                `mmrs_bench.methods.unidiff.adaptation.adapted_denoiser`; what does not fit is told before any training.
        """
        if self.config.head == "spectral-film" and "hsi" not in data.modalities:
            raise ConfigError(
                f"head spectral-film reads spectra, but the method sees {', '.join(data.modalities)} only; add "
                "modality hsi, or use head mlp"
            )
        self._denoiser, self._backbone, _ = adapted_denoiser(self.config, data, self.context)

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        config, context = self.config, self.context
        features = self._features(data)
        pixels = np.concatenate([data.support, data.validation])
        places = features.grid.tiles_of(pixels)
        inputs = [features.vectors(places)]
        if config.head == "spectral-film":
            inputs.append(_spectra(data, pixels[places.pixel]))
        targets = np.concatenate([data.support_targets, data.validation_targets])[places.pixel]
        support = places.pixel < len(data.support)
        train, validate = np.flatnonzero(support), np.flatnonzero(~support)

        def with_inputs(batch: Batch, *, augment: bool = False) -> dict[str, Any]:
            pairs = batch["pixel"]  # the loaders number pairs, not pixels
            return {**batch, "inputs": [values[pairs.cpu()].to(pairs.device) for values in inputs]}

        address = (STAGE, context.draw, context.seed)
        loaders = LoaderView(
            with_inputs,
            data.shuffled_dataloader(address, train, targets[train], batch_size=config.batch_size, augment=False),
            PixelLoader(validate, targets[validate], batch_size=data.inference_batch),
            None,
        )
        self._blueprint = Blueprint.of(data, config)
        width = inputs[0].shape[1]
        self._head = training.initialised(lambda: self._untrained(self._blueprint, width), context, NAME)
        training.fit(
            PixelHead(self._head, config),
            loaders,
            context,
            stage=STAGE,
            epochs=config.epochs,
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`; features of tiles that the cache lacks are computed first. Holds one tile's vectors.

        Raises:
            ConfigError: If the head was fitted to other modalities or bands, or see `scene_pictures`.
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        self._blueprint.check_inputs(Blueprint.of(data, self.config), "UniDiff")
        features = self._features(data)
        head = self._head.to(features.device).eval()
        places = features.grid.tiles_of(pixels)
        sums = torch.zeros(len(pixels), len(self._blueprint.class_names), dtype=torch.float64)
        done = 0
        for pairs, vectors in features.by_tile(places):
            pixel, place = places.pixel[pairs], places.place[pairs]
            # All places of the tile, asked for or not: a matrix product may round otherwise in another size.
            inputs = [vectors]
            if self.config.head == "spectral-film":
                spectra = torch.zeros(len(vectors), data.channels["hsi"])
                spectra[place] = _spectra(data, pixels[pixel])
                inputs.append(spectra.to(features.device))
            with torch.no_grad():
                probabilities = head(*inputs).softmax(dim=1).cpu().double()
            sums[pixel] += probabilities[place]
            done += len(pairs)
            self.context.progress("prediction", done / len(places.pixel))
        head.cpu()
        # A pixel's sums are its means, times the number of its tiles.
        targets: IntArray = sums.argmax(dim=1).numpy()
        return targets

    def parameter_counts(self) -> ParameterCounts:
        """Backbone, adapters and head; of these the adapted parameters and the head are trained."""
        denoiser = self._denoiser.parameter_counts()
        head = sum(parameter.numel() for parameter in self._head.parameters())
        return ParameterCounts(denoiser.total + head, denoiser.trainable + head)

    def save(self, folder: Path) -> None:
        """See `Method.save`: head, adapters and, if it is ``tiny``, the backbone (safetensors); settings (JSON)."""
        save_network(folder, NAME, self._blueprint, self._head)
        _write(folder / ADAPTERS_FILE, self._denoiser.adapted_state(), self._denoiser.adapters_metadata())
        if self.config.backbone == "tiny":
            _write(folder / BACKBONE_FILE, self._backbone.weights, {"name": self._backbone.name})

    def load(self, folder: Path) -> None:
        """See `Method.load`; needs no cache but, for ``imagenet``, the checkpoint.

        Raises:
            DataError: If a file is absent or damaged, the settings are others, the adapters are of another backbone, or
                the checkpoint is absent.
        """
        first = "layers.0.weight" if self.config.head == "mlp" else "spatial.0.weight"

        def build(blueprint: Blueprint, weights: Mapping[str, Tensor]) -> nn.Module:
            # A file without this tensor fits no head, whatever its width.
            return self._untrained(blueprint, weights[first].shape[-1] if first in weights else 1)

        self._blueprint, self._head = load_network(folder, NAME, self.config, build)
        self._backbone = _saved_tiny(folder) if self.config.backbone == "tiny" else imagenet_backbone()
        self._denoiser = denoiser_on(self._backbone, self.config, seed=0)
        self._denoiser.load_adapted(*_opened(folder / ADAPTERS_FILE))

    def _features(self, data: SceneDataModule) -> TileFeatures:
        config = self.config
        return TileFeatures(
            self._denoiser,
            scene_pictures(config, data),
            timestep=config.timestep,
            block=config.block,
            context=self.context,
        )

    def _untrained(self, blueprint: Blueprint, width: int) -> nn.Module:
        """The head for vectors of some width, with torch's default generator."""
        classes = len(blueprint.class_names)
        if self.config.head == "spectral-film":
            return SpectralFilm(width, dict(blueprint.channels)["hsi"], classes)
        return PixelMLP(width, self.config.hidden, classes)


def _spectra(data: SceneDataModule, pixels: IntArray) -> Tensor:
    """Normalised spectra (n, c) of pixels (n,)."""
    return torch.from_numpy(data.features(pixels, ("hsi",)))


def _saved_tiny(folder: Path) -> Backbone:
    """The backbone that `UniDiff.save` wrote."""
    weights, about = _opened(folder / BACKBONE_FILE)
    name = about.get("name", "")
    # The name ends with the hash of the weights.
    if not name.endswith(hashlib.sha256(save(weights)).hexdigest()):
        raise DataError(f"{folder / BACKBONE_FILE}: the values are not those that were written; {REFIT_ADVICE}")
    return Backbone(ADM_TINY, weights, name)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    content = save(dict(tensors), metadata)
    atomic_write(path, lambda file: file.write(content))


def _opened(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file."""
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); {REFIT_ADVICE}") from error
