"""Loaders of pixels with their inputs, for Lightning, for plain loops and for distributed training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mmrs_bench.randomness import SampleRandom, torch_generator
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import SYMMETRIES

Batch = dict[str, Any]
#: Adds inputs, such as windows, to a batch with ``pixel`` and, for training, ``symmetry``; may remove ``symmetry``. If
#: there is ``unlabelled``, it is a batch of unlabelled pixels that gets inputs too.
AddInputs = Callable[[Batch], dict[str, Any]]


class Unlabelled(NamedTuple):
    """Unlabelled pixels, some of which each training batch also contains; drawn at random, with repetition.

    Attributes:
        pixels: Flat indices (n,), at least one.
        per_batch: Pixels in each batch of one process.
        address: Address of the random choice (see `mmrs_bench.randomness`), to which epoch and batch are appended.
    """

    pixels: IntArray
    per_batch: int
    address: tuple[str | int, ...]


class Selection(NamedTuple):
    """Positions (b,) of a batch in a dataset, and the symmetries (b,) of its windows; None for no symmetries.

    ``unlabelled`` is the same for the unlabelled pixels of the batch; None for none.
    """

    positions: torch.Tensor
    symmetry: torch.Tensor | None = None
    unlabelled: Selection | None = None


class PixelDataset(Dataset[dict[str, Any]]):
    """Pixels of a scene with targets and inputs; ``dataset[5]`` is one pixel, ``dataset[selection]`` a batch.

    Args:
        pixels: Flat indices (n,).
        targets: Targets (n,) in 0..K-1, or None.
        unlabelled: Further pixels (m,) for the entry ``unlabelled`` of batches.
        add_inputs: Adds the inputs to a batch on its device.
        device: Device of the batches.
    """

    def __init__(
        self,
        pixels: IntArray,
        targets: IntArray | None = None,
        *,
        unlabelled: IntArray | None = None,
        add_inputs: AddInputs = dict,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pixels = torch.from_numpy(np.array(pixels, dtype=np.int64))
        self.targets = None if targets is None else torch.from_numpy(np.array(targets, dtype=np.int64))
        self.unlabelled = torch.from_numpy(np.array([] if unlabelled is None else unlabelled, dtype=np.int64))
        self.add_inputs = add_inputs
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: int | Selection) -> dict[str, Any]:
        if not isinstance(key, Selection):
            batch = self[Selection(torch.tensor([key]))]
            return {name: _first(value) for name, value in batch.items()}
        batch = self._batch(self.pixels, key)
        if self.targets is not None:
            batch["target"] = self.targets[key.positions].to(self.device)
        if key.unlabelled is not None:
            batch["unlabelled"] = self._batch(self.unlabelled, key.unlabelled)
        return self.add_inputs(batch)

    def _batch(self, pixels: torch.Tensor, key: Selection) -> Batch:
        fields = {"pixel": pixels[key.positions], "symmetry": key.symmetry}
        return {name: values.to(self.device) for name, values in fields.items() if values is not None}


def _first(value: Any) -> Any:
    return {name: part[0] for name, part in value.items()} if isinstance(value, dict) else value[0]


class BatchSampler(DistributedSampler[Any]):
    """Yields the `Selection` of each batch.

    The sizes of the batches differ by at most one, so that no small last batch distorts batch statistics. In
    distributed training each process receives its part of every batch. In training all parts have one size, and a batch
    that cannot be divided repeats some pixels; otherwise each pixel comes once. Lightning keeps a sampler of this base
    class.

    Args:
        count: Number of pixels.
        batch_size: Largest batch of one process.
        shuffle: Address of the random order (see `mmrs_bench.randomness`), to which the epoch is appended. None keeps
            the order.
        augment: Whether shuffled batches also contain symmetries in 0..7 for the windows.
        per_epoch: Largest number of pixels in an epoch, drawn again for every epoch; None takes all.
        unlabelled: Unlabelled pixels for every batch, with symmetries if ``augment``; None for none.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        shuffle: tuple[str | int, ...] | None = None,
        augment: bool = False,
        per_epoch: int | None = None,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        super().__init__(range(count), num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
        self.pixels = count
        self.batch_size = batch_size
        self.address = shuffle
        self.augment = augment
        self.count = min(count, per_epoch or count)
        self.unlabelled = unlabelled
        #: An epoch that was interrupted, and the batches that it leaves out, because they were served before.
        self.interrupted: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; without it, passes count from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // (self.batch_size * process_rank()[1]))

    def __iter__(self) -> Iterator[Selection]:
        epoch, order, symmetry = self.epoch, torch.arange(self.pixels), None
        if self.address is not None:
            generator = torch_generator(*self.address, epoch)
            order = torch.randperm(self.pixels, generator=generator)[: self.count]
            if self.augment:
                symmetry = torch.randint(SYMMETRIES, (len(order),), generator=generator)
        skipped = self.skipped
        self.epoch += 1
        if len(self):
            for number, places in enumerate(torch.arange(len(order)).tensor_split(len(self))):
                own = self._own_part(places)
                if len(own) and number >= skipped:
                    turned = None if symmetry is None else symmetry[own]
                    yield Selection(order[own], turned, self._unlabelled_part(epoch, number))

    @property
    def skipped(self) -> int:
        """Batches that the next pass leaves out."""
        epoch, served = self.interrupted or (-1, 0)
        return served if epoch == self.epoch else 0

    def _own_part(self, places: torch.Tensor) -> torch.Tensor:
        """The part of a batch that belongs to this process."""
        rank, processes = process_rank()
        if self.address is None:
            return places.tensor_split(processes)[rank]
        size = -(-len(places) // processes)
        return places[torch.arange(rank * size, (rank + 1) * size) % len(places)]

    def _unlabelled_part(self, epoch: int, number: int) -> Selection | None:
        """The unlabelled pixels of this process in a batch."""
        if self.unlabelled is None:
            return None
        pixels, count, address = self.unlabelled
        rank, processes = process_rank()
        random = SampleRandom(*address, epoch, number, part=rank, parts=processes)
        positions = random.integers(len(pixels), count)
        return Selection(positions, random.integers(SYMMETRIES, count) if self.augment else None)


def process_rank() -> tuple[int, int]:
    """Rank of this process, and the number of processes that train together."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class PixelLoader(DataLoader[dict[str, Any]]):
    """A ``DataLoader`` that yields dicts with ``pixel`` (b,), ``target`` (b,) if there are targets, and inputs.

    A batch is one index operation, so ``num_workers=0`` is the fastest. Its state is the number of batches that the
    present pass has served: a training that is resumed within an epoch gets the others.

    Args:
        dataset: The pixels.
        sampler: The batches.
        options: Further arguments of ``DataLoader``, such as ``num_workers``.
    """

    def __init__(self, dataset: PixelDataset, *, sampler: BatchSampler, **options: Any) -> None:
        # The sampler yields batches. Without a generator of its own, every pass would draw from the global one.
        fixed = {"batch_size": None, "generator": torch.Generator()}
        super().__init__(dataset, sampler=sampler, **{**options, **fixed})
        self._epoch, self._served = 0, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        self._epoch, self._served = self._batches.epoch, self._batches.skipped
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch of the present pass, and the number of batches that it has served; 0 after its end."""
        return {"epoch": self._epoch, "served": self._served % max(1, len(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let a pass of this epoch leave out the batches that were served."""
        self._batches.interrupted = state["epoch"], state["served"]

    @property
    def _batches(self) -> BatchSampler:
        return self.sampler  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "generator": None}  # another process cannot receive its state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, generator=torch.Generator())


def ignore_loader_warnings() -> None:
    """Silence warnings of Lightning that do not apply to few-shot protocols and `PixelLoader`.

    They are about missing validation data, a single training batch, and loaders without worker processes.
    """
    warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no `validation_step`")
    warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
    warnings.filterwarnings("ignore", message=f"Total length of `{PixelLoader.__name__}` across ranks is zero")
    warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", message=r"The number of training batches \(\d+\) is smaller than the logging")
