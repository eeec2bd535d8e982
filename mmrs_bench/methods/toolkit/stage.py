"""Base of all LightningModules: one per training stage of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.toolkit.checkpoints import read_checkpoint
from mmrs_bench.randomness import SampleRandom

#: Entry of a checkpoint with the name of its module's class.
MODULE_ENTRY = "mmrs_bench_module"
#: How the names of this package's classes begin, which stay where they are.
_OWN = "mmrs_bench."


class StageModule(L.LightningModule):
    """A training stage. Subclasses call ``save_hyperparameters`` with plain values only.

    So ``load_from_checkpoint(path)`` needs no other argument, and runs no code of the file.

    Args:
        channels: Channels by modality.
        window: Window side in pixels; None accepts every side.
    """

    def __init__(self, channels: Mapping[str, int], window: int | None = None) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.window = window

    @property
    def epochs(self) -> int:
        """Number of epochs of the trainer, at least 1; with ``max_steps``, those that its steps take.

        Raises:
            ConfigError: If the trainer has neither ``max_epochs`` nor ``max_steps``.
        """
        trainer = self.trainer
        limits = [trainer.max_epochs] if trainer.max_epochs not in (None, -1) else []
        if trainer.max_steps > 0:
            trainer.fit_loop.setup_data()
            batches, of_epoch = trainer.max_steps * trainer.accumulate_grad_batches, trainer.num_training_batches
            limits += [math.ceil(batches / of_epoch)] if 0 < of_epoch < math.inf else []
        if not limits:
            raise ConfigError(
                f"the learning rate of {type(self).__name__} falls over the whole training; set max_epochs or "
                "max_steps of the trainer"
            )
        return max(1, min(limits))

    @property
    def fused(self) -> bool:
        """Whether an optimiser can be fused, for speed.

        Lightning clips no gradients of a fused optimiser in mixed precision.
        """
        trainer = self._trainer
        return trainer is None or not (trainer.gradient_clip_val and str(trainer.precision).endswith("mixed"))

    def random(self, *address: str | int, device: torch.device | str = "cpu") -> SampleRandom:
        """Random numbers for the samples of a batch; the same for any number of processes."""
        parts = 1 if self._trainer is None else self.trainer.world_size
        return SampleRandom(*address, device=torch.device(device).type, part=self.global_rank, parts=parts)

    def windows_of(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The windows (b, c, w, w) by modality of a batch, in the order of ``channels``.

        Raises:
            ConfigError: If there are none, or they differ from those that the module was built for.
        """
        if "windows" not in batch:
            raise ConfigError(
                f"{type(self).__name__} needs batches with windows; use the loaders of a SceneDataModule, or dicts "
                "with windows (b, channels, w, w) by modality"
            )
        windows: dict[str, Tensor] = batch["windows"]
        found = {name: window.shape[1] for name, window in windows.items()}
        sides = {side for window in windows.values() for side in window.shape[2:]}
        if found != self.channels or (self.window is not None and sides != {self.window}):
            raise ConfigError(
                f"{type(self).__name__} was built for {_described(self.channels, self.window)}, but a batch has "
                f"{_described(found, *sides)}; build it with channels=data.channels"
                + ("" if self.window is None else " and window=data.config.window")
            )
        return {name: windows[name] for name in self.channels}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the name of the class."""
        checkpoint[MODULE_ENTRY] = _name(type(self))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of other modules."""
        _check_module(type(self), checkpoint, "the checkpoint")

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Any:
        """The module of a checkpoint; see Lightning's method of this name. Only tensors and plain values are read.

        Raises:
            DataError: If the file is missing, damaged, or of another module.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        _check_module(cls, checkpoint, str(checkpoint_path))
        return super().load_from_checkpoint(checkpoint_path, *args, **{"weights_only": True, **options})


def _described(channels: Mapping[str, int], *side: int | None) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in channels.items())
    return f"channels {parts}" + "".join(f", windows of {value}" for value in side if value is not None)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _check_module(cls: type, checkpoint: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint of another class. A class of a user may be in another file than when it was trained."""
    found = checkpoint.get(MODULE_ENTRY)
    moved = isinstance(found, str) and not found.startswith(_OWN) and found.endswith(f".{cls.__qualname__}")
    if not moved and found not in [_name(base) for base in cls.__mro__]:
        raise DataError(
            f"{where}: contains {found or 'no module of mmrs-bench'}, expected {_name(cls)}; use one of its checkpoints"
        )
