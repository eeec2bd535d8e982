"""Data modules of both stages: tiles of pictures for stage A, features of pixels for stage B.

Letters: n tiles, or pairs of a pixel and a tile that contains it, b pixels, p pictures, s side of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.unidiff.adm import adm_config
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import imagenet_backbone
from mmrs_bench.methods.unidiff.features import NOISE_SEED, PixelPairs, TileFeatures
from mmrs_bench.methods.unidiff.module import STAGE, DenoisingModule
from mmrs_bench.methods.unidiff.pictures import (
    ANCHOR,
    DRIFT_TILES,
    ScenePictures,
    check_protocol,
    drift_numbers,
    picture_rows,
    select_pictures,
    training_names,
)
from mmrs_bench.randomness import SampleRandom
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import (
    Batch,
    BatchSampler,
    PixelDataset,
    PixelLoader,
    Selection,
    ignore_loader_warnings,
    process_rank,
)
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene

# Stage A


class TileSampler(BatchSampler):
    """Draws picture and tile of each sample of a step; position k is tile ``k % tiles`` of picture ``k // tiles``.

    Args:
        pictures: p.
        tiles: Number of tiles of a picture.
        batch_size: Samples of a step of one process. Several processes draw the samples of one with their total.
        steps: Steps of an epoch.
        address: Address of the samples, to which epoch and step are appended; `DenoisingModule` draws the other random
            numbers of the samples from the same stream.
    """

    def __init__(
        self, pictures: int, tiles: int, *, batch_size: int, steps: int, address: tuple[str | int, ...]
    ) -> None:
        super().__init__(pictures * tiles, batch_size=batch_size, shuffle=address)
        self.tiles, self.steps = tiles, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Selection]:
        epoch, (rank, processes) = self.epoch, process_rank()
        skipped = self.skipped
        self.epoch += 1
        for step in range(skipped, self.steps):
            random = SampleRandom(*(self.address or ()), epoch, step, part=rank, parts=processes)
            pictures = random.integers(self.pixels // self.tiles, self.batch_size)
            yield Selection(pictures * self.tiles + random.integers(self.tiles, self.batch_size))


class _Tiles:
    """Replaces positions (see `TileSampler`) by ``tiles`` (n, 3, s, s), and ``row`` (n,) of the class embedding."""

    def __init__(self, pictures: ScenePictures, names: Sequence[str]) -> None:
        self._grid, self._rows = pictures.grid, torch.tensor(picture_rows(names))
        self._images = torch.cat([pictures.images[name] for name in names], 2)

    def __call__(self, batch: Batch) -> dict[str, Any]:
        kinds, numbers = batch["pixel"] // len(self._grid), batch["pixel"] % len(self._grid)
        stacked = self._grid.cut(self._images, numbers)  # (n, 3p, s, s)
        tiles = stacked.reshape(len(kinds), len(self._rows), -1, *stacked.shape[2:])
        return {"tiles": tiles[torch.arange(len(kinds)), kinds], "row": self._rows[kinds]}


def training_tiles(
    pictures: ScenePictures,
    names: Sequence[str],
    *,
    batch_size: int,
    epoch_steps: int,
    stage: str,
    seed: int,
    num_workers: int = 0,
) -> PixelLoader:
    """Random tiles of the named pictures; arguments as of `TileDataModule`."""
    dataset = PixelDataset(np.arange(len(names) * len(pictures.grid)), add_inputs=_Tiles(pictures, names))
    sampler = TileSampler(
        len(names), len(pictures.grid), batch_size=batch_size, steps=epoch_steps, address=(stage, seed)
    )
    return PixelLoader(dataset, sampler=sampler, num_workers=num_workers)


def drift_tiles(pictures: ScenePictures, name: str = ANCHOR) -> PixelLoader:
    """One batch of at most `DRIFT_TILES` tiles of a picture, spread evenly over the scene."""
    dataset = PixelDataset(drift_numbers(pictures.grid).numpy(), add_inputs=_Tiles(pictures, [name]))
    return PixelLoader(dataset, sampler=BatchSampler(len(dataset), batch_size=DRIFT_TILES))


class TileDataModule(L.LightningDataModule):
    """Tiles of the pictures of a scene, without labels, for `DenoisingModule`; the scene is read at the first access.

    Batches are dicts with ``tiles`` (n, 3, s, s) float32 in [-1, 1] and ``row`` (n,), the rows of their pictures in the
    class embedding. The training loader draws picture and tile of each sample at random, the validation loader has
    pseudo-RGB tiles for measuring drift.

    Args:
        scene: A scene, the name of a shipped scene, the path of a manifest, or a manifest.
        modalities: Modalities that become pictures; None takes all.
        pictures: Names of pictures (``rgb``, ``pca``, ``sar``, ``lidar0``) or their kinds (``lidar``); empty takes all.
        tile, stride: Side of a tile, and distance of neighbouring tiles, in pixels.
        anchored: Whether pseudo-RGB tiles are part of the training.
        batch_size: Tiles of a step of one process. Several processes draw the tiles of one with their total.
        epoch_steps: Steps of an epoch.
        stage, seed: As of `DenoisingModule`.
        num_workers: Worker processes of the training loader.

    Raises:
        ConfigError: If a size is not positive; from `setup`, see `select_pictures` and `training_names`.
        DataError: From `setup`, see `select_pictures`.
    """

    def __init__(
        self,
        scene: Scene | str | Manifest,
        *,
        modalities: Sequence[str] | None = None,
        pictures: Sequence[str] = (),
        tile: int = 64,
        stride: int = 32,
        anchored: bool = True,
        batch_size: int = 32,
        epoch_steps: int = 50,
        stage: str = STAGE,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, size in {"tile": tile, "batch_size": batch_size, "epoch_steps": epoch_steps}.items():
            if size < 1:
                raise ConfigError(f"{name} is {size}; use at least 1")
        self.modalities, self.tile, self.stride = modalities, tile, stride
        self.anchored, self.batch_size, self.epoch_steps = anchored, batch_size, epoch_steps
        self.stage, self.seed, self.num_workers = stage, seed, num_workers
        self._source, self._wanted = scene, pictures
        ignore_loader_warnings()

    @cached_property
    def pictures(self) -> ScenePictures:
        """The pictures and their tiles."""
        scene = self._source if isinstance(self._source, Scene) else load_scene(self._source)
        return select_pictures(scene, self.modalities, self._wanted, tile=self.tile, stride=self.stride)

    @property
    def names(self) -> list[str]:
        """Names of the pictures that are trained on, for ``DenoisingModule(pictures=...)``."""
        return training_names(self.pictures.images, anchored=self.anchored)

    def setup(self, stage: str | None = None) -> None:
        """Read the scene, once; ``stage`` is ignored."""
        _ = self.names

    def train_dataloader(self) -> PixelLoader:
        """``epoch_steps`` batches of random tiles, others in every epoch."""
        return training_tiles(
            self.pictures,
            self.names,
            batch_size=self.batch_size,
            epoch_steps=self.epoch_steps,
            stage=self.stage,
            seed=self.seed,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> PixelLoader | list[PixelLoader]:
        """One batch of pseudo-RGB tiles; nothing if the scene has no pseudo-RGB."""
        return drift_tiles(self.pictures) if ANCHOR in self.pictures.images else []


# Stage B


class TileFeatureDataModule(SceneDataModule):
    """Features of a frozen denoiser for the pixels of a scene, for `HeadModule`; they are cached on disk.

    The training and validation loaders have pairs of pixel and tile, the test and prediction loaders pixels with all
    their pairs; see `mmrs_bench.methods.unidiff.head_module.HeadModule` for the batches.

    Args:
        scene, config: As of `SceneDataModule`. Pictures show the raw bands of the whole scene, so the protocol must not
            exclude pixels, and has no ``pca``.
        checkpoint: Lightning checkpoint of a `DenoisingModule`; None takes the public ImageNet model, not adapted.
        timestep: Noise level of the features, from 0 to 999.
        block: Decoder block that provides them, see `AdaptedDenoiser.features`.
        pictures, tile, stride: As of `TileDataModule`; pictures include the pseudo-RGB even without anchoring.
        spectra: Whether batches have spectra, for the spectral heads.
        noise_seed: Seed of the noise; UniDiff has 21, GeoDiffNet 0.
        class_label: Whether the denoiser receives the row of each picture in the class embedding; GeoDiffNet has none.
        batch_size: Pairs of a training step of one process.
        precision: ``32-true``, or ``bf16-mixed`` for the denoiser.
        options: Further arguments of `SceneDataModule`, such as ``shots`` and ``draw``.

    Raises:
        ConfigError: If a setting is invalid; when the scene is read, see `select_pictures`.
        DataError: If the checkpoint or the public file is absent or damaged.
    """

    def __init__(
        self,
        scene: Scene | str | Manifest,
        config: DataConfig | None = None,
        *,
        checkpoint: str | None = None,
        timestep: int = 0,
        block: int = 10,
        pictures: Sequence[str] = (),
        tile: int = 64,
        stride: int = 32,
        spectra: bool = False,
        noise_seed: int = NOISE_SEED,
        class_label: bool = True,
        batch_size: int = 32,
        precision: str = "32-true",
        **options: Any,
    ) -> None:
        super().__init__(scene, config, batch_size=batch_size, **options)
        check_protocol(self.config)
        self.noise_seed, self.class_label = noise_seed, class_label
        self.checkpoint, self.timestep, self.block, self.spectra = checkpoint, timestep, block, spectra
        self.precision, self._wanted, self._tile, self._stride = precision, pictures, tile, stride

    @cached_property
    def pairs(self) -> PixelPairs:
        """The loaders of pairs; reads the checkpoint. Features are computed on the device of a running trainer."""
        scene = self.complete.scene  # blanked pictures have the mean of the whole picture
        pictures = select_pictures(
            scene, self.modalities, self._wanted, self.absent, tile=self._tile, stride=self._stride
        )
        denoiser = _denoiser(self.checkpoint)
        picture_rows([*pictures.images], denoiser.config.classes)
        last = denoiser.config.decoder_blocks - 1
        if not 0 <= self.block <= last:
            raise ConfigError(f"block is {self.block}; the decoder of this backbone has blocks 0 to {last}")
        execution = ExecutionConfig.of(device=self._batch_device().type, precision=self.precision)
        context = RunContext(seed=self.seed, draw=self.config.draw, work_dir=Path(), execution=execution)
        features = TileFeatures(
            denoiser,
            pictures,
            timestep=self.timestep,
            block=self.block,
            context=context,
            noise_seed=self.noise_seed,
            class_label=self.class_label,
        )
        return PixelPairs(self, features, spectra=self.spectra)

    @property
    def feature_size(self) -> int:
        """Length of the vectors, for ``HeadModule(features=...)``."""
        return self.pairs.features.size

    def train_dataloader(self) -> PixelLoader:
        """Pairs of the support pixels, reshuffled every epoch."""
        return self.pairs.training(("head", self.config.draw, self.seed), self.batch_size)

    def val_dataloader(self) -> PixelLoader:
        """Pairs of the validation pixels; empty unless the protocol selects by ``paper-val``."""
        self.check_validation()
        return self.pairs.validation()

    def test_dataloader(self) -> PixelLoader:
        """Query pixels in ascending order, with targets, only for scoring."""
        return self._without_dropped().pairs.pixels(self.query, self.query_targets)

    def predict_dataloader(self) -> PixelLoader:
        """Query pixels in ascending order, or all pixels of the scene (``predict_on``), without targets."""
        pixels = np.arange(self.scene.labels.size) if self.predict_on == "scene" else self.query
        return self._without_dropped().pairs.pixels(pixels)

    def _with(self, setting: str, value: Any) -> Self:
        known = (setting, value) in self._changed
        other = super()._with(setting, value)
        if not known:
            other.__dict__.pop("pairs", None)  # a copy has those of this protocol
        return other


def _denoiser(checkpoint: str | None) -> AdaptedDenoiser:
    if checkpoint is not None:
        module: DenoisingModule = DenoisingModule.load_from_checkpoint(checkpoint)
        return module.denoiser.eval()
    backbone = imagenet_backbone(adm_config("imagenet"))
    return AdaptedDenoiser(backbone.network, backbone.weights, "none", backbone=backbone.name)
