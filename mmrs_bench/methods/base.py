"""The interface of all methods.

For each cell the runner calls ``Method(config, context)``, ``pretrain(data)``, ``fit(data)`` and
``predict(data, pixels)``, scores the predictions and writes the record. A method never receives query labels.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict

from mmrs_bench.config import ExecutionConfig, MethodSpec
from mmrs_bench.errors import ConfigError
from mmrs_bench.io import file_sha256, text_hash, write_text
from mmrs_bench.methods.catalogue import class_file
from mmrs_bench.paths import cache_root
from mmrs_bench.reading import validated
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import FloatArray, IntArray

#: Begins the names of packages of files that cards name.
FILES = "mmrs_bench_files_"
#: Receives the name of a stage and its finished share in [0, 1].
Progress = Callable[[str, float], None]
#: Receives the reason for waiting (see `RunContext`).
Wait = Callable[[str], None]


class ParameterCounts(NamedTuple):
    """Numbers of learned parameters; 0 for methods without a fixed number, such as forests."""

    total: int
    trainable: int


class MethodConfig(BaseModel):
    """Base of a method's settings: immutable, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Prediction(NamedTuple):
    """Predicted classes of pixels.

    Attributes:
        targets: Targets (n,) int64 in 0..K-1.
        confidence: The largest class probability (n,) float32 of each pixel; None if the method has no probabilities.
    """

    targets: IntArray
    confidence: FloatArray | None


def _no_progress(stage: str, share: float) -> None:
    """Ignore the progress."""


def never_defer(reason: str) -> None:
    """Let the cell wait."""


@dataclass
class Trial:
    """Measures trainings: each one stops after some seconds, and the time of its other steps is estimated.

    Attributes:
        seconds: How long each training is measured.
        left_out: Expected seconds of all steps that were left out so far.
    """

    seconds: float
    left_out: float = 0.0


@dataclass(frozen=True)
class RunContext:
    """What the runner passes to a method.

    Attributes:
        seed: Seed of initialisation and training; derive every random stream with `mmrs_bench.randomness` from
            ``(purpose, draw, seed)``.
        draw: Index of the support sample.
        work_dir: Folder for logs and checkpoints of this cell.
        execution: Device, precision and batch size of inference.
        progress: Callback with the name of a stage and its finished share in [0, 1].
        wait: Call it with a reason before waiting for another process. It may raise `mmrs_bench.errors.Deferred`, so
            that the worker computes another cell first.
        only_cached: Raise `mmrs_bench.errors.NotPretrainedError` instead of a pretraining that the cache lacks.
        pretraining_seconds: Seconds of each shared pretraining that the cell uses, whichever cell trained it, by the
            name of its cache entry; None if they are unknown. The cache fills it.
        trial: Shortens all trainings to measure them; None in a run.
    """

    seed: int
    draw: int
    work_dir: Path
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    progress: Progress = _no_progress
    wait: Wait = never_defer
    only_cached: bool = False
    pretraining_seconds: dict[str, float | None] = field(default_factory=dict, compare=False)
    trial: Trial | None = None


class Method(ABC):
    """A classifier of pixels. Predictions depend only on config, context and data.

    Subclasses set ``Config``.

    Attributes:
        module: The LightningModule that classifies, after `fit` or `load`; None if the method has none.
        pretrained: The LightningModule of stage 1, after `pretrain`; None if the method has none.

    Args:
        config: The settings, validated by ``Config``.
        context: Seed, draw, device, folder and callbacks.

    Raises:
        ConfigError: If a setting is unknown, missing or invalid.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig

    module: Any = None
    pretrained: Any = None

    def __init__(self, config: Mapping[str, Any], context: RunContext) -> None:
        where = f"settings of {type(self).__name__}"
        self.config: Any = validated(self.Config, dict(config), where=where, error=ConfigError)
        self.context = context

    def pretrain(self, data: SceneDataModule) -> None:  # noqa: B027 - optional
        """Learn from ``data.unlabelled`` without labels; does nothing by default."""

    @abstractmethod
    def fit(self, data: SceneDataModule) -> None:
        """Learn from ``data.support`` and ``data.support_targets``."""

    @abstractmethod
    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """Targets (n,) int64 in 0..K-1 of the pixels with flat indices (n,)."""

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """`predict`, and the confidence of each target; by default the method has none."""
        return Prediction(self.predict(data, pixels), None)

    def predict_without(self, data: SceneDataModule, pixels: IntArray, missing: Sequence[str]) -> IntArray:
        """`predict` if modalities are missing that the training had.

        By default the missing values are the means over the scene, for all methods. Override it if the architecture has
        a way of its own, which must not read the missing modalities.

        Raises:
            ConfigError: If a modality is unknown, or none is left.
        """
        return self.predict(data.without(missing), pixels)

    def classify(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """Predict under the protocol of ``data``: without the modalities that it drops, if any."""
        drop = data.config.drop
        return self.predict_without(data, pixels, drop) if drop else self.predict(data, pixels)

    def classify_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """`classify`, and the confidence of each target; None for a method that has its own `predict_without`."""
        drop = data.config.drop
        if drop and type(self).predict_without is not Method.predict_without:
            return Prediction(self.predict_without(data, pixels, drop), None)
        return self.predict_with_confidence(data.without(drop) if drop else data, pixels)

    def bound_to_scene(self) -> str:
        """Why only the training scene can be classified; empty if others with the same channels can be, too."""
        return ""

    def notes(self) -> tuple[str, ...]:
        """What readers of the results must know about this cell, one line each, after `fit`; nothing by default."""
        return ()

    def parameter_counts(self) -> ParameterCounts:
        """Numbers of parameters after `fit`."""
        return ParameterCounts(0, 0)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the fitted state to a folder as data without code (safetensors, npz, JSON)."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote.

        Raises:
            DataError: If a file is missing or damaged, or does not fit the settings.
        """


def method_class(card: MethodSpec) -> type[Method]:
    """Import a method's class.

    Raises:
        ConfigError: If the card's ``class_path`` cannot be imported or is not a subclass of `Method`.
    """
    module, _, name = card.class_path.rpartition(":")
    file = class_file(card)
    try:
        found = getattr(importlib.import_module(module) if file is None else _module_of_file(file), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method {card.name!r}: {card.class_path} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(
            f"method {card.name!r}: {card.class_path} is not a subclass of mmrs_bench.methods.base.Method; derive it"
        )
    return found


def _module_of_file(file: Path) -> ModuleType:
    """Import a file as part of a package of the files beside it, which it may import relatively.

    A changed file is imported again. The package is a file in the cache that names the folder, so that processes which
    a training starts can import it, too.

    Raises:
        ImportError: If the file is absent, or its code raises an error.
        BenchError: If the cache cannot be written.
    """
    try:
        folder, content = file.resolve().parent, file_sha256(file)
    except OSError as error:
        raise ImportError(str(error)) from error
    package = f"{FILES}{text_hash(f'{folder}:{content}')[:16]}"
    start = cache_root().absolute() / "imports" / package / "__init__.py"
    if not start.is_file():
        write_text(start, f"__path__ = [{str(folder)!r}]\n")
    if (place := str(start.parents[1])) not in sys.path:
        sys.path.append(place)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(f"{package}.{file.stem}")
    except Exception as error:  # whatever the user's code raises
        raise ImportError(f"{type(error).__name__}: {error}") from error


def place_of(kind: type) -> str:
    """``module:Class`` of a class, or ``file.py:Class`` if its module is a file that a card names or one beside it."""
    module = sys.modules[kind.__module__]
    place = str(module.__file__) if module.__name__.startswith(FILES) else module.__name__
    return f"{place}:{kind.__qualname__}"
