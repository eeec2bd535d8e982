"""Loaders of pixel indices, for Lightning and for plain loops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import torch

from mmrs_bench.errors import ConfigError
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import SYMMETRIES

Batch = dict[str, torch.Tensor]


class PixelLoader:
    """Yields dicts with ``pixel`` (b,) int64 and, if targets are given, ``target`` (b,) int64.

    The sizes of the batches differ by at most one, so that no small last batch distorts batch statistics. A batch is a
    slice of one tensor, so a ``DataLoader`` with workers and collation would only cost time.

    Args:
        pixels: Flat indices.
        targets: Targets of the pixels in 0..K-1, or None.
        batch_size: Largest batch.
        shuffle: Address of the random order (see `mmrs_bench.randomness`), to which the epoch is appended. None keeps
            the order.
        augment: Whether shuffled batches also contain ``symmetry`` (b,) int64 in 0..7 for the windows.
        per_epoch: Largest number of pixels in an epoch, drawn again for every epoch; None takes all.
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
        """Set the epoch of the next pass; without it, passes count from 0."""
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
    """Serves given loaders with windows (see `mmrs_bench.scenes.datamodule.SceneDataModule.serving`).

    ``add_windows`` receives a batch on its device and ``augment=``, which is true while the trainer is training. A
    missing loader is empty; a missing training loader raises an error when the trainer needs it.
    """

    def __init__(
        self,
        add_windows: Callable[..., dict[str, Any]],
        train: PixelLoader | None = None,
        validate: PixelLoader | None = None,
        predict: PixelLoader | None = None,
    ) -> None:
        super().__init__()
        empty = PixelLoader(np.empty(0, dtype=np.int64), batch_size=1)
        self._add_windows = add_windows
        self._train, self._validate, self._predict = train, validate or empty, predict or empty

    def train_dataloader(self) -> PixelLoader:
        """The training loader; raises `ConfigError` if there is none."""
        if self._train is None:
            raise ConfigError("no training loader was given; pass one to serving(train=...).")
        return self._train

    def val_dataloader(self) -> PixelLoader:
        """The validation loader."""
        return self._validate

    def predict_dataloader(self) -> PixelLoader:
        """The prediction loader."""
        return self._predict

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> dict[str, Any]:
        """Add windows on the batch's device, with symmetries while the trainer is training."""
        return self._add_windows(batch, augment=self.trainer is not None and self.trainer.training)


def ignore_validation_warnings() -> None:
    """Silence Lightning's two warnings about missing validation data, which few-shot protocols do not have."""
    warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no `validation_step`")
    warnings.filterwarnings("ignore", message=f"Total length of `{PixelLoader.__name__}` across ranks is zero")
