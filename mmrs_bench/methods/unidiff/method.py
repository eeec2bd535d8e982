"""UniDiff and GeoDiffNet-F: pixels classified from features of a diffusion model of photographs.

Stage A (`mmrs_bench.methods.unidiff.adaptation`) adapts the model to a scene without labels. Stage B freezes it,
extracts activations of one decoder block (`mmrs_bench.methods.unidiff.features`), and trains a small head on those of
the support pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import ParameterCounts, Prediction
from mmrs_bench.methods.toolkit.network_method import REFIT_ADVICE, Blueprint, NetworkMethod
from mmrs_bench.methods.toolkit.sealed import read_tensors, tensors_sha256, write_tensors
from mmrs_bench.methods.toolkit.training import Loaders
from mmrs_bench.methods.unidiff.adaptation import adapted_denoiser, denoiser_on
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import Backbone, imagenet_backbone
from mmrs_bench.methods.unidiff.config import UniDiffConfig
from mmrs_bench.methods.unidiff.features import NOISE_SEED, PixelPairs, TileFeatures
from mmrs_bench.methods.unidiff.head_module import HeadModule, TileVotes, Vote, spread
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

ADAPTERS_FILE = "adapters.safetensors"
#: Written for the backbone ``tiny`` only; the other one is a public checkpoint.
BACKBONE_FILE = "backbone.safetensors"
#: Names of the tensors whose last size is that of the features.
_FIRST_LAYERS = ("network.spatial.0.weight", "network.layers.0.weight")


class UniDiff(NetworkMethod):
    """A pixel head on features of a frozen diffusion model that is adapted to the sensors of the scene.

    The class of a pixel has the largest mean softmax over the tiles that contain the pixel.

    Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
    Deviation: the last of a fixed number of epochs is kept. The released code stops and selects by 30 % of the test
        pixels (``paper-val`` selects by the 200 pixels of the protocol).
    """

    Config = UniDiffConfig
    Module = HeadModule
    _notes: tuple[str, ...] = ()
    name = "unidiff"
    title = "UniDiff"
    stage = "head"
    shuffle = "head"
    #: Seed of the noise of features, and whether the denoiser receives the row of a picture in the class embedding.
    noise_seed: ClassVar[int] = NOISE_SEED
    class_label: ClassVar[bool] = True
    #: How the tiles of a pixel decide its class.
    vote: ClassVar[Vote] = "mean"

    denoiser: AdaptedDenoiser
    _backbone: Backbone
    _pairs: PixelPairs

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`: stage A, or its result from the cache.

        Raises:
            ConfigError: If the head needs an HSI that the method does not receive.
            BenchError: See `mmrs_bench.methods.unidiff.adaptation.adapted_denoiser`.
        """
        if self._spectral and "hsi" not in data.modalities:
            raise ConfigError(
                f"head {self.config.head} needs spectra, but the modalities are {', '.join(data.modalities)}; add hsi, "
                "or use head mlp"
            )
        adapted, self._backbone = adapted_denoiser(self.config, data, self.context)
        self.pretrained, self.denoiser = adapted, adapted.denoiser

    def create(self, data: SceneDataModule) -> None:
        """See `NetworkMethod.create`; the size of the head depends on the features."""
        self._pairs = self.pairs(data)
        super().create(data)

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> HeadModule:
        """See `NetworkMethod.build`."""
        if weights is None:
            features = self._pairs.features.size
        else:
            first = next((weights[name] for name in _FIRST_LAYERS if name in weights), None)
            features = 1 if first is None else first.shape[-1]  # without this tensor, loading fails for any size
        bands = dict(blueprint.channels).get("hsi") if self._spectral else None
        return HeadModule(features, bands=bands, vote=self.vote, **self.hyperparameters(blueprint))

    def loaders(self, data: SceneDataModule) -> Loaders:
        """Shuffled pairs of the support for training, and the pairs of the validation pixels."""
        address = (self.shuffle, self.context.draw, self.context.seed)
        return Loaders(self._pairs.training(address, self.config.batch_size), self._pairs.validation())

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        tile, window, self._notes = self.config.tile, data.config.window, ()
        if data.config.split == "block-v1" and tile > window:
            self._notes = (
                f"features see tiles of {tile} pixels, which reach over the distance of {window} pixels between "
                "support and query; the leakage in this record is that of windows",
            )
        super().fit(data)

    def notes(self) -> tuple[str, ...]:
        """See `Method.notes`: tiles that are larger than the distance of ``block-v1``."""
        return self._notes

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Missing features of query pixels are computed and stored first, because all draws share them. Those of other
        pixels, as of a whole scene, are not stored.

        The same targets as ``trainer.predict`` with the loader of `PixelPairs.pixels`, but each tile is read only once,
        and memory holds the vectors of one tile.

        Raises:
            ConfigError: If the head was fitted to other modalities or bands, or see `scene_pictures`.
            BenchError: If features cannot be computed or stored.
        """
        targets: IntArray = self._votes(data, pixels).targets().numpy()
        return targets

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """See `Method.predict_with_confidence` and `TileVotes.confidence`."""
        votes = self._votes(data, pixels)
        return Prediction(votes.targets().numpy(), votes.confidence().float().numpy())

    def _votes(self, data: SceneDataModule, pixels: IntArray) -> TileVotes:
        self.blueprint.check_inputs(self.describe(data), self.title)
        pairs = self.pairs(data)
        features = pairs.features
        head = self.module.to(features.device).eval()
        places = features.grid.tiles_of(pixels)
        votes = TileVotes(len(pixels), len(self.blueprint.class_names), self.vote)
        done = 0
        for chosen, vectors in features.by_tile(places, keep=bool(np.isin(pixels, data.query).all())):
            pixel, place = places.pixel[chosen], torch.from_numpy(places.place[chosen])
            inputs = pairs.inputs(pixels[pixel], vectors)
            if "spectra" in inputs:
                inputs["spectra"] = spread(inputs["spectra"].to(features.device), place, features.grid.tile)
            votes.add(torch.from_numpy(pixel), head.tile_probabilities(*inputs.values())[place])
            done += len(chosen)
            self.context.progress("prediction", done / len(places.pixel))
        head.cpu()
        return votes

    def bound_to_scene(self) -> str:
        """See `Method.bound_to_scene`."""
        chosen = self.config.pictures
        with_components = "hsi" in dict(self.blueprint.channels) and (not chosen or "pca" in chosen)
        return "one of its pictures shows the principal components of one scene" if with_components else ""

    def parameter_counts(self) -> ParameterCounts:
        """Parameters of denoiser and head, and the trained ones among them."""
        head = super().parameter_counts()
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.denoiser.parameters()]
        return ParameterCounts(head.total + sum(n for n, _ in sizes), head.trainable + sum(n for n, t in sizes if t))

    def save(self, folder: Path) -> None:
        """See `Method.save`: head, adapters, and the backbone if it is ``tiny``."""
        super().save(folder)
        write_tensors(folder / ADAPTERS_FILE, self.denoiser.adapted_state(), self.denoiser.adapters_metadata())
        if self.config.backbone == "tiny":
            write_tensors(folder / BACKBONE_FILE, self._backbone.weights, {"name": self._backbone.name})

    def load(self, folder: Path) -> None:
        """See `Method.load`; the backbone ``imagenet`` needs its checkpoint in the cache.

        Raises:
            DataError: If a file is absent or damaged, the settings differ, the adapters belong to another backbone, or
                the checkpoint is absent.
        """
        super().load(folder)
        tiny = self.config.backbone == "tiny"
        self._backbone = self._saved_backbone(folder) if tiny else imagenet_backbone(self.config.network())
        self.denoiser = denoiser_on(self._backbone, self.config, seed=0)
        self.denoiser.load_adapted(*read_tensors(folder / ADAPTERS_FILE, advice=REFIT_ADVICE))

    def pairs(self, data: SceneDataModule) -> PixelPairs:
        """The features of a scene, and the loaders of its pixels."""
        config = self.config
        features = TileFeatures(
            self.denoiser,
            scene_pictures(config, data),
            timestep=config.timestep,
            block=config.block,
            context=self.context,
            noise_seed=self.noise_seed,
            class_label=self.class_label,
        )
        return PixelPairs(data, features, spectra=self._spectral)

    @property
    def _spectral(self) -> bool:
        return bool(self.config.head != "mlp")

    def _saved_backbone(self, folder: Path) -> Backbone:
        weights, metadata = read_tensors(folder / BACKBONE_FILE, advice=REFIT_ADVICE)
        name = metadata.get("name", "")
        # The name ends with the hash of the weights.
        if not name.endswith(tensors_sha256(weights)):
            raise DataError(f"{folder / BACKBONE_FILE}: the values differ from those that were written; {REFIT_ADVICE}")
        return Backbone(self.config.network(), weights, name)


class GeoDiffNet(UniDiff):
    """A pixel head on pseudo-RGB features of the frozen diffusion model, and on the spectrum of the pixel.

    The denoiser receives the timestep, but no class label. The class of a pixel is the most frequent one of those that
    the tiles with this pixel give.

    Reference: GeoDiffNet-F (arXiv 2512.03430) and its released code and checkpoint. Its settings for Berlin contradict
        each other: timestep 50 and block 11 in one file, timesteps 50, 150 and 250 and blocks 2, 3, 4 and 7 (8,064
        values) in another. The variant ``berlin`` has the former.
    Deviation: the last of a fixed number of epochs is kept, where the released code stops by the training loss. The
        last, smaller batch of an epoch is used; the released code drops it, so it takes no step with fewer than 64
        pairs of pixel and tile. Spectra are normalised by the protocol.
    """

    title = "GeoDiffNet-F"
    noise_seed = 0
    class_label = False
    vote = "labels"
