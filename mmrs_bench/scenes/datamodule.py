"""Lightning data modules that serve the pixels of a scene with their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import lightning as L
import numpy as np
import torch

from mmrs_bench.config import DataConfig, Normalisation, PixelScope, SplitName
from mmrs_bench.config import Selection as SelectionRule
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.reading import validated
from mmrs_bench.scenes.loader import (
    AddInputs,
    BatchSampler,
    PixelDataset,
    PixelLoader,
    Unlabelled,
    ignore_loader_warnings,
)
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.scenes.scene_data import SceneData


class SceneDataModule(SceneData, L.LightningDataModule):
    """One scene under one data protocol; it is loaded at the first access.

    Batches are dicts with ``pixel`` (b,), ``windows``: per modality (b, channels, window, window) float32, and
    ``target`` (b,) where the protocol allows it. Every loader is a ``torch.utils.data.DataLoader``; use it with a
    trainer, or in a plain loop. While a trainer runs with this data module, windows are gathered on its device.

    Args:
        scene: A scene, the name of a shipped scene, the path of a manifest, or a manifest.
        config: The data protocol; the defaults are those of `mmrs_bench.config.DataConfig`.
        shots: Labels per class. This setting and those from ``draw`` to ``drop`` replace those of ``config``; see
            `mmrs_bench.config.DataConfig`. The test and prediction loaders serve windows without ``drop``.
        seed: Seed of the order of batches and of augmentation. The split does not depend on it.
        batch_size: Largest training batch of one process.
        inference_batch: Largest batch of the validation, test and prediction loaders.
        augment: Whether each training window gets a random symmetry of the square, the same in all modalities.
        train_on: Pixels of the training loader: the labelled ``support``, or the ``unlabelled`` pixels without targets,
            for pretraining.
        windows_per_epoch: Largest number of training windows in an epoch, drawn again for every epoch; None takes all.
        unlabelled_per_batch: Unlabelled pixels, drawn at random for every step, that each training batch of the support
            also contains, for semi-supervised methods: ``unlabelled`` with ``pixel`` and ``windows``.
        predict_on: Pixels of the prediction loader: the ``query``, or the whole ``scene``, row by row.
        num_workers: Worker processes of a loader; 0 is the fastest.
        device: Device of the windows outside a trainer.

    Raises:
        ConfigError: If a setting is invalid, or from `setup`, if the protocol does not fit the scene.
        SplitError: From `setup`, if there is no such split.
        DataError: From `setup`, if the scene's files are missing or wrong.
    """

    def __init__(
        self,
        scene: Scene | str | Manifest,
        config: DataConfig | None = None,
        *,
        shots: int | None = None,
        draw: int | None = None,
        split: SplitName | None = None,
        window: int | None = None,
        modalities: Sequence[str] | None = None,
        normalisation: Normalisation | None = None,
        normalisation_scope: PixelScope | None = None,
        unlabelled: PixelScope | None = None,
        pca: int | None = None,
        selection: SelectionRule | None = None,
        query_limit: int | None = None,
        drop: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 128,
        inference_batch: int = 2048,
        augment: bool = True,
        train_on: Literal["support", "unlabelled"] = "support",
        windows_per_epoch: int | None = None,
        unlabelled_per_batch: int = 0,
        predict_on: Literal["query", "scene"] = "query",
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        L.LightningDataModule.__init__(self)
        sizes = {"batch_size": batch_size, "inference_batch": inference_batch, "windows_per_epoch": windows_per_epoch}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ConfigError(f"{name} is {size}; use at least 1.")
        for name, value, known in (
            ("train_on", train_on, ("support", "unlabelled")),
            ("predict_on", predict_on, ("query", "scene")),
        ):
            if value not in known:
                raise unknown_name(name, str(value), known)
        if unlabelled_per_batch < 0 or (unlabelled_per_batch and train_on == "unlabelled"):
            raise ConfigError(
                f"unlabelled_per_batch is {unlabelled_per_batch} and train_on is {train_on}; use at least 0, and 0 for "
                "training on unlabelled pixels"
            )
        protocol = {
            "shots": shots,
            "draw": draw,
            "split": split,
            "window": window,
            "modalities": modalities,
            "normalisation": normalisation,
            "normalisation_scope": normalisation_scope,
            "unlabelled": unlabelled,
            "pca": pca,
            "selection": selection,
            "query_limit": query_limit,
            "drop": drop,
        }
        given = {name: value for name, value in protocol.items() if value is not None}
        settings = {**(config or DataConfig()).model_dump(), **given}
        SceneData.__init__(self, scene, validated(DataConfig, settings, where="data protocol", error=ConfigError))
        self.seed = seed
        self.batch_size = batch_size
        self.inference_batch = inference_batch
        self.augment = augment
        self.train_on = train_on
        self.windows_per_epoch = windows_per_epoch
        self.unlabelled_per_batch = unlabelled_per_batch
        self.predict_on = predict_on
        self.num_workers = num_workers
        self.device = torch.device(device)
        ignore_loader_warnings()

    def setup(self, stage: str | None = None) -> None:
        """Load, split and normalise the scene, once; ``stage`` is ignored."""
        _ = self._prepared

    # Loaders

    def train_dataloader(self) -> PixelLoader:
        """The training pixels, reshuffled every epoch: support pixels with targets, or unlabelled pixels."""
        if self.train_on == "unlabelled":
            return self.unlabelled_dataloader()
        address, unlabelled = (self.config.draw, self.seed), None
        if self.unlabelled_per_batch:
            unlabelled = Unlabelled(self.unlabelled, self.unlabelled_per_batch, ("unlabelled windows", *address))
        return self.shuffled_dataloader(
            ("support", *address),
            self.support,
            self.support_targets,
            per_epoch=self.windows_per_epoch,
            unlabelled=unlabelled,
        )

    def unlabelled_dataloader(self) -> PixelLoader:
        """Unlabelled pixels, reshuffled every epoch in an order that is the same for all draws of a seed."""
        address = ("unlabelled", self.seed)
        return self.shuffled_dataloader(address, self.unlabelled, per_epoch=self.windows_per_epoch)

    def val_dataloader(self) -> PixelLoader:
        """Validation pixels with targets; empty unless the protocol selects by ``paper-val``.

        Raises:
            ConfigError: If ``trainer.validate`` asks for validation pixels and there are none.
        """
        self.check_validation()
        return self.pixel_dataloader(self.validation, self.validation_targets)

    def check_validation(self) -> None:
        """Raise ConfigError if ``trainer.validate`` runs and there are no validation pixels."""
        if self.trainer is not None and self.trainer.state.fn == "validate" and not len(self.validation):
            raise ConfigError(
                f"selection {self.config.selection} has no validation pixels; use trainer.test (mmrs-bench test) "
                "for the query pixels, or set selection to paper-val, whose results have no rank (mmrs-bench validate "
                "--data.init_args.selection paper-val)"
            )

    def test_dataloader(self) -> PixelLoader:
        """Query pixels in ascending order, with targets, only for scoring."""
        return self._without_dropped().pixel_dataloader(self.query, self.query_targets)

    def predict_dataloader(self) -> PixelLoader:
        """Query pixels in ascending order, or all pixels of the scene (``predict_on``), without targets."""
        data = self._without_dropped()
        return data.scene_dataloader() if self.predict_on == "scene" else data.pixel_dataloader(self.query)

    def _without_dropped(self) -> Self:
        """The data of predictions: without the modalities that the protocol drops."""
        data = self.without(self.config.drop)
        data.trainer = self.trainer
        return data

    def scene_dataloader(self) -> PixelLoader:
        """Every pixel of the raster, row by row, without targets."""
        return self.pixel_dataloader(np.arange(self.scene.labels.size, dtype=np.int64))

    def pixel_dataloader(
        self, pixels: IntArray, targets: IntArray | None = None, *, add_inputs: AddInputs | None = None
    ) -> PixelLoader:
        """The given pixels in the given order.

        Args:
            pixels: Flat indices (n,).
            targets: Their targets (n,), or None.
            add_inputs: Adds the inputs to a batch; by default `add_windows`.
        """
        return self._loader(pixels, targets, add_inputs, batch_size=self.inference_batch)

    def shuffled_dataloader(
        self,
        address: tuple[str | int, ...],
        pixels: IntArray,
        targets: IntArray | None = None,
        *,
        batch_size: int | None = None,
        augment: bool | None = None,
        per_epoch: int | None = None,
        unlabelled: Unlabelled | None = None,
        add_inputs: AddInputs | None = None,
    ) -> PixelLoader:
        """Pixels for training, reshuffled every epoch.

        Args:
            address: Address of the random order (see `mmrs_bench.randomness`).
            pixels: Flat indices (n,).
            targets: Their targets (n,), or None.
            batch_size: Largest batch; None takes that of the data module.
            augment: Whether windows get a random symmetry; None takes the setting of the data module.
            per_epoch: See `BatchSampler`.
            unlabelled: Unlabelled pixels for every batch, in its entry ``unlabelled``; None for none.
            add_inputs: Adds the inputs to a batch; by default `add_windows`.
        """
        return self._loader(
            pixels,
            targets,
            add_inputs,
            batch_size=batch_size or self.batch_size,
            shuffle=("batches", *address),
            augment=self.augment if augment is None else augment,
            per_epoch=per_epoch,
            unlabelled=unlabelled,
        )

    def _loader(
        self,
        pixels: IntArray,
        targets: IntArray | None,
        add_inputs: AddInputs | None,
        unlabelled: Unlabelled | None = None,
        **batches: Any,
    ) -> PixelLoader:
        dataset = PixelDataset(
            pixels,
            targets,
            unlabelled=None if unlabelled is None else unlabelled.pixels,
            add_inputs=add_inputs or self.add_windows,
            device=self._batch_device(),
        )
        sampler = BatchSampler(len(dataset), unlabelled=unlabelled, **batches)
        return PixelLoader(dataset, sampler=sampler, num_workers=self.num_workers)

    def _batch_device(self) -> torch.device:
        """The running trainer's device, or ``device``; worker processes gather on the CPU."""
        if self.num_workers:
            return torch.device("cpu")
        running = self.trainer is not None and self.trainer.state.status == "running"
        return self.trainer.strategy.root_device if self.trainer is not None and running else self.device


class _ShippedDataModule(SceneDataModule):
    """A data module of a shipped scene; its arguments are those of `SceneDataModule` without ``scene``."""

    dataset: ClassVar[str]

    def __init__(self, config: DataConfig | None = None, **options: Any) -> None:
        super().__init__(self.dataset, config, **options)


class Houston2013DataModule(_ShippedDataModule):
    """Houston 2013: HSI and LiDAR, 15 classes."""

    dataset = "houston2013"


class TrentoDataModule(_ShippedDataModule):
    """Trento: HSI and LiDAR, 6 classes."""

    dataset = "trento"


class MUUFLDataModule(_ShippedDataModule):
    """MUUFL Gulfport: HSI and LiDAR, 11 classes."""

    dataset = "muufl"


class AugsburgDataModule(_ShippedDataModule):
    """Augsburg: HSI and SAR, 7 classes."""

    dataset = "augsburg"


class BerlinDataModule(_ShippedDataModule):
    """Berlin: HSI and SAR, 8 classes."""

    dataset = "berlin"
