"""Batches of pixel indices, as Lightning and plain loops take them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import SYMMETRIES

Batch = dict[str, torch.Tensor]


class AddWindows(Protocol):
    """Signature of `mmrs_bench.scenes.datamodule.SceneDataModule.add_windows`."""

    def __call__(self, batch: Batch, *, augment: bool = False) -> dict[str, Any]:
        """A copy of the batch with windows."""


class PixelLoader:
    """Yields dicts of ``pixel`` (b,) int64, and ``target`` (b,) int64 where targets are given.

    Pixels are cut into as few batches as fit the batch size, whose sizes differ by at most one: nothing is dropped,
    and no tiny last batch upsets batch statistics. It is a plain iterable rather than a ``DataLoader``: a batch is a
    slice of one tensor, for which workers and collation only cost time.

    Args:
        pixels: Flat indices, in the order in which they come out unless shuffled.
        targets: Targets of the pixels in 0..K-1, or None.
        batch_size: Largest batch.
        shuffle: Address of the order (see `mmrs_bench.randomness`); the epoch is added to it. None keeps the order.
        augment: Whether shuffled batches also carry ``symmetry`` (b,) int64 in 0..7 for the windows.
        per_epoch: At most so many pixels make an epoch, others in every epoch; None takes all.
    """

    def __init__(
        self,
        pixels: IntArray,
        targets: IntArray | None = None,
        *,
        batch_size: int,
        shuffle: tuple[str | int, ...] | None = None,
        augment: bool = False,
        per_epoch: int | None = None,
    ) -> None:
        self.pixels = torch.from_numpy(np.array(pixels, dtype=np.int64))
        self.targets = None if targets is None else torch.from_numpy(np.array(targets, dtype=np.int64))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment
        self.count = min(len(pixels), per_epoch or len(pixels))
        # Lightning calls loader.batch_sampler.sampler.set_epoch at the start of every epoch.
        self.batch_sampler = SimpleNamespace(sampler=self)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; without it, passes count up from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        fields = {"pixel": self.pixels}
        if self.targets is not None:
            fields["target"] = self.targets
        if self.shuffle is not None:
            generator = torch_generator(*self.shuffle, self._epoch)
            order = torch.randperm(len(self.pixels), generator=generator)[: self.count]
            fields = {name: values[order] for name, values in fields.items()}
            if self.augment:
                fields["symmetry"] = torch.randint(SYMMETRIES, (len(order),), generator=generator)
        self._epoch += 1
        if len(self):
            pieces = [values.tensor_split(len(self)) for values in fields.values()]
            for batch in zip(*pieces, strict=True):
                yield dict(zip(fields, batch, strict=True))


class LoaderView(L.LightningDataModule):
    """Serves loaders with windows (see `mmrs_bench.scenes.datamodule.SceneDataModule.serving`).

    Args:
        add_windows: Adds windows to a batch on its device; its ``augment`` says whether the trainer is training.
        train: Training loader, without which the view cannot fit.
        validate: Validation loader; None is empty.
        predict: Prediction loader; None is empty.
    """

    def __init__(
        self,
        add_windows: AddWindows,
        train: PixelLoader | None,
        validate: PixelLoader | None,
        predict: PixelLoader | None,
    ) -> None:
        super().__init__()
        none = PixelLoader(np.empty(0, dtype=np.int64), batch_size=1)
        self._add_windows = add_windows
        self._train, self._validate, self._predict = train, validate or none, predict or none

    def train_dataloader(self) -> PixelLoader:
        """The training loader.

        Raises:
            ConfigError: If none was given.
        """
        if self._train is None:
            raise ConfigError("no training loader was given; name one in serving(train=...).")
        return self._train

    def val_dataloader(self) -> PixelLoader:
        """The validation loader."""
        return self._validate

    def predict_dataloader(self) -> PixelLoader:
        """The prediction loader."""
        return self._predict

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> dict[str, Any]:
        """Add windows on the batch's device, augmented while the trainer is training."""
        return self._add_windows(batch, augment=self.trainer is not None and self.trainer.training)


def allow_no_validation() -> None:
    """Silence the two complaints of Lightning about an honest protocol: there is no validation data.

    Filters are process-wide in Python; these two match nothing but an empty `PixelLoader` and a missing
    ``validation_step``.
    """
    warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no `validation_step`")
    warnings.filterwarnings("ignore", message=f"Total length of `{PixelLoader.__name__}` across ranks is zero")
