"""Settings and module of networks that are trained from scratch with Adam and a published schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.toolkit.classification import ClassificationModule

Schedule = Literal["constant", "cosine", "step"]


def hsi_and_others(channels: Mapping[str, int], title: str) -> tuple[int, int]:
    """Channels of a network with two streams: of the HSI, and of all other modalities, stacked.

    Args:
        channels: Channels by modality.
        title: Name of the network in errors.

    Raises:
        ConfigError: If there is no HSI or no second modality.
    """
    found = ", ".join(channels)
    if "hsi" not in channels:
        raise ConfigError(f"{title} needs an hsi, but the modalities are {found}; add hsi, or use another method")
    if len(channels) < 2:
        raise ConfigError(
            f"{title} needs a second modality beside the hsi, but the only one is {found}; add one, or use another "
            "method"
        )
    return channels["hsi"], sum(count for name, count in channels.items() if name != "hsi")


def stacked_others(windows: Mapping[str, Tensor]) -> Tensor:
    """All modalities but the HSI (b, c, h, w), stacked along the channels in the order of their names."""
    return torch.cat([windows[name] for name in sorted(windows) if name != "hsi"], dim=1)


def _fault(schedule: Schedule, decay_every: int | None, decay: float | None) -> str | None:
    given = [decay_every is not None, decay is not None]
    if all(given) if schedule == "step" else not any(given):
        return None
    return (
        f"schedule is {schedule}, decay_every is {decay_every} and decay is {decay}; set both decay_every and decay "
        "with schedule step, and neither with another one"
    )


class SupervisedConfig(MethodConfig):
    """Settings that all networks of this kind share; subclasses add the sizes of theirs.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and largest number of windows of a step.
        learning_rate, weight_decay, schedule, decay_every, decay: See `SupervisedModule`.
    """

    components: int | None = Field(ge=1)
    symmetries: bool
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Schedule
    decay_every: int | None = Field(ge=1)
    decay: float | None = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _steps_of_the_rate(self) -> SupervisedConfig:
        if fault := _fault(self.schedule, self.decay_every, self.decay):
            raise ValueError(fault)
        return self


class SupervisedModule(ClassificationModule):
    """Trains ``network``, which subclasses set, with Adam; its L2 penalty is added to the gradient.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes k.
        window: Window side in pixels; None accepts every side.
        learning_rate: Initial rate.
        weight_decay: Factor of the L2 penalty.
        schedule: ``constant``; ``cosine``: the rate falls to 0 along a half cosine over the trainer's epochs; ``step``:
            the rate is multiplied by ``decay`` after every ``decay_every`` epochs.
        decay_every, decay: Of schedule ``step``; None otherwise.

    Raises:
        ConfigError: If the schedule and the settings of its decay do not fit.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        num_classes: int,
        window: int | None,
        *,
        learning_rate: float,
        weight_decay: float,
        schedule: Schedule,
        decay_every: int | None,
        decay: float | None,
    ) -> None:
        if fault := _fault(schedule, decay_every, decay):
            raise ConfigError(fault)
        super().__init__(channels, num_classes, window)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.schedule, self.decay_every, self.decay = schedule, decay_every, decay

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters for Adam; by default one with all, each with the L2 penalty."""
        return [{"params": [*self.parameters()]}]

    def configure_optimizers(self) -> Any:
        """Adam, with the chosen schedule."""
        groups, rate, penalty = self.parameter_groups(), self.learning_rate, self.weight_decay
        optimizer = torch.optim.Adam(groups, lr=rate, weight_decay=penalty, fused=self.fused)
        if self.schedule == "cosine":
            return self.with_cosine_schedule(optimizer)
        if self.decay_every is None or self.decay is None:
            return optimizer
        steps = torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every, self.decay)
        return {"optimizer": optimizer, "lr_scheduler": steps}
