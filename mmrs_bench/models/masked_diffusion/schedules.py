"""Learning-rate schedules of both stages, stepped once per epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, MultiStepLR

from mmrs_bench.errors import unknown_name

#: ``cosine``: half a cosine to 0. ``multistep``: a tenth after 100 of 150 epochs, a hundredth after 131, as released.
#: ``restarts``: a cosine that restarts after 5, 15, 35, ... epochs, as released.
Schedule = Literal["cosine", "multistep", "restarts"]


def lr_schedule(optimizer: Optimizer, name: Schedule, epochs: int) -> LRScheduler:
    """The schedule of this name for a training of so many epochs."""
    if name == "multistep":
        return MultiStepLR(optimizer, [round(epochs * 100 / 150), round(epochs * 131 / 150)])
    if name == "restarts":
        return CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)
    return CosineAnnealingLR(optimizer, epochs)


def check_choice(setting: str, value: Any, known: Iterable[str]) -> None:
    """Raise ConfigError if a setting of a module has none of the known values."""
    names = list(known)
    if value not in names:
        raise unknown_name(setting, str(value), names)
