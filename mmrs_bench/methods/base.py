"""The interface between the runner and every method.

A cell's life: ``Method(config, context)`` -> ``pretrain(data)`` -> ``fit(data)`` -> ``predict(data, pixels)``.
The runner times each step, scores the predictions and writes the record; a method never sees a query label.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from mmrs_bench.config import ExecutionConfig, MethodSpec
from mmrs_bench.errors import ConfigError
from mmrs_bench.reading import validated
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

#: Receives the name of a stage and the share of it that is done, in [0, 1].
Progress = Callable[[str, float], None]
#: Receives what a cell waits for (see `RunContext`).
Wait = Callable[[str], None]


class ParameterCounts(NamedTuple):
    """Learned numbers of a method; both 0 for methods without a parameter vector (forests, say)."""

    total: int
    trainable: int


class MethodConfig(BaseModel):
    """Base of a method's settings: typed, closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _silent(stage: str, done: float) -> None:
    """Progress for callers that show none."""


def never_defer(reason: str) -> None:
    """For callers without other work."""


@dataclass(frozen=True)
class RunContext:
    """What the runner lends to a method.

    Attributes:
        seed: Initialisation and training seed; derive every stream with `mmrs_bench.randomness` from
            ``(purpose, draw, seed)``.
        draw: Index of the support sample.
        execution: Device, precision, batch size of inference.
        work_dir: This cell's own folder for logs and checkpoints.
        progress: Called with a stage's name and the share done, in [0, 1].
        wait: Called with what is missing before waiting for another process that computes it. The call may raise
            `mmrs_bench.errors.Deferred` so that the worker can compute another cell first; call it before any work.
    """

    seed: int
    draw: int
    work_dir: Path
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    progress: Progress = _silent
    wait: Wait = never_defer


class Method(ABC):
    """A classifier of pixels that learns from few labels.

    Subclasses set ``Config``. All predictions are deterministic given config, context and data.

    Args:
        config: The settings, as a mapping that ``Config`` validates.
        context: What the runner lends.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: Mapping[str, Any], context: RunContext) -> None:
        where = f"settings of {type(self).__name__}"
        self.config: Any = validated(self.Config, dict(config), where=where, error=ConfigError)
        self.context = context

    def pretrain(self, data: SceneDataModule) -> None:  # noqa: B027 - most methods have nothing to do here
        """Learn from ``data.unlabelled`` without labels; does nothing unless the method pretrains."""

    @abstractmethod
    def fit(self, data: SceneDataModule) -> None:
        """Learn from ``data.support`` and ``data.support_targets``."""

    @abstractmethod
    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """Targets (n,) in 0..K-1 of the pixels with these flat indices (n,); identical on every call."""

    def parameter_counts(self) -> ParameterCounts:
        """Counts after `fit`."""
        return ParameterCounts(0, 0)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state to a folder, without pickles (safetensors, npz, JSON)."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take the state that `save` wrote; predictions then equal those before saving."""


def method_class(card: MethodSpec) -> type[Method]:
    """Import a method's class.

    Raises:
        ConfigError: If the card's ``class_path`` cannot be imported or is not a `Method`.
    """
    module, _, name = card.class_path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method {card.name!r}: {card.class_path} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(
            f"method {card.name!r}: {card.class_path} is not a subclass of mmrs_bench.methods.base.Method; derive it"
        )
    return found
