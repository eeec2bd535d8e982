"""Base class of methods that train one LightningModule, and the files that a fitted module is saved to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.callbacks import Callback
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write, content_hash, write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts, Prediction
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.classification import VALIDATION_METRIC, ClassificationModule
from mmrs_bench.methods.toolkit.sealed import seal_of
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.methods.toolkit.training import Loaders
from mmrs_bench.reading import read_json, validated
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import PixelLoader
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.texts import one_line

REFIT_ADVICE = "fit and save it again"


class Blueprint(BaseModel):
    """The inputs and settings that a network is built from; saved beside its weights.

    Attributes:
        channels: Modalities and their channels, as ordered pairs.
        side: Window side in pixels.
        class_names: In target order.
        settings: The method's settings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[tuple[str, int], ...]
    side: int
    class_names: tuple[str, ...]
    settings: dict[str, Any]

    @classmethod
    def of(cls, data: SceneDataModule, config: MethodConfig) -> Blueprint:
        """The blueprint of a network for some data."""
        return cls(
            channels=tuple(data.channels.items()),
            side=data.config.window,
            class_names=data.class_names,
            settings=config.model_dump(mode="json"),
        )

    def check_inputs(self, other: Blueprint, title: str) -> None:
        """Check that the fitted network can classify other data.

        Args:
            other: The blueprint for the data to classify.
            title: The method's name in the error message.

        Raises:
            ConfigError: If window side, modalities or their channels differ.
        """
        if (dict(other.channels), other.side) != (dict(self.channels), self.side):
            raise ConfigError(
                f"{title} was fitted to {self._inputs()}, but is to classify {other._inputs()}; fit it to those"
            )

    def _inputs(self) -> str:
        channels = ", ".join(f"{name} {count}" for name, count in self.channels)
        return f"windows of {self.side} with channels {channels}"


def description_file(folder: Path, name: str) -> Path:
    """Path of the blueprint that `save_network` writes."""
    return folder / f"{name}.json"


def weights_file(folder: Path, name: str) -> Path:
    """Path of the weights that `save_network` writes."""
    return folder / f"{name}.safetensors"


def save_network(folder: Path, name: str, blueprint: Blueprint, network: StageModule) -> None:
    """Write a module's weights (safetensors, with a checksum of both files) and blueprint (JSON) to a folder."""
    fields = blueprint.model_dump(mode="json")
    tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    content = save(tensors, {"seal": seal_of(content_hash(fields), tensors)})
    atomic_write(weights_file(folder, name), lambda file: file.write(content))
    write_json(description_file(folder, name), fields)


def load_network(
    folder: Path,
    name: str,
    config: MethodConfig,
    build: Callable[[Blueprint, Mapping[str, Tensor]], ClassificationModule],
) -> tuple[Blueprint, ClassificationModule]:
    """Read a module that `save_network` wrote.

    Args:
        folder: Folder of the files.
        name: Name of the files.
        config: Settings of the method; must equal the saved ones.
        build: Builds the module from its blueprint and the saved tensors by name, which are then copied into it.

    Returns:
        The blueprint, and the module in evaluation mode.

    Raises:
        DataError: If a file is missing or damaged, settings differ, or weights do not fit or are not finite.
    """
    description = description_file(folder, name)
    fields = read_json(description, error=DataError, advice=REFIT_ADVICE)
    blueprint = validated(Blueprint, fields, where=description, error=DataError, advice=REFIT_ADVICE)
    try:
        with safe_open(weights_file(folder, name), framework="pt") as opened:
            metadata = opened.metadata()
            weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{weights_file(folder, name)}: cannot be read ({one_line(str(error))}); {REFIT_ADVICE}"
        ) from error
    settings = config.model_dump(mode="json")
    different = [key for key, value in settings.items() if blueprint.settings.get(key) != value]
    if different:
        raise DataError(f"{folder}: was saved with other settings ({', '.join(different)}); use the saved settings")
    broken = [key for key, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise DataError(f"{folder}: {', '.join(broken)} have values that are NaN or infinite; {REFIT_ADVICE}")
    if metadata is not None and metadata.get("seal") != seal_of(content_hash(fields), weights):
        raise DataError(f"{folder}: the files {name}.* were changed after they were saved; {REFIT_ADVICE}")
    network = build(blueprint, weights)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: the weights do not fit {name}.json beside them ({one_line(str(error))}); {REFIT_ADVICE}"
        ) from error
    return blueprint, network.eval()


class NetworkMethod(Method):
    """A method that trains one LightningModule on the support set.

    Subclasses set ``Config``, ``Module``, ``name`` and ``title``. The rest has defaults, which use these settings where
    ``Config`` has them: ``components``, ``epochs``, ``batch_size``, ``symmetries``.
    """

    #: The module; its arguments are hyperparameters of the same names as the settings, see `hyperparameters`.
    Module: ClassVar[type[ClassificationModule]]
    #: Name of the saved files and of the random stream of the initial weights.
    name: ClassVar[str]
    #: Name in error messages.
    title: ClassVar[str]
    #: Name of the training stage in progress, logs and errors.
    stage: ClassVar[str] = "training"
    #: Name of the random stream that shuffles the support set.
    shuffle: ClassVar[str] = "support"

    #: The fitted module.
    module: Any
    blueprint: Blueprint

    def hyperparameters(self, blueprint: Blueprint) -> dict[str, Any]:
        """Arguments of ``Module``: the settings that it accepts, channels, classes, window, seed and draw."""
        given = {
            **self.config.model_dump(),
            "channels": dict(blueprint.channels),
            "num_classes": len(blueprint.class_names),
            "class_names": list(blueprint.class_names),
            "window": blueprint.side,
            "seed": self.context.seed,
            "draw": self.context.draw,
        }
        return {name: given[name] for name in inspect.signature(self.Module).parameters if name in given}

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> ClassificationModule:
        """Build the untrained module; random values come from torch's default generator.

        Args:
            blueprint: Channels, window side and classes.
            weights: Tensors of a saved module that is being loaded; they are copied into the result afterwards.
        """
        return self.Module(**self.hyperparameters(blueprint))

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """The data as the network receives them: with ``components`` principal components of the HSI, if set."""
        return data.with_components(getattr(self.config, "components", None))

    def describe(self, data: SceneDataModule) -> Blueprint:
        """The blueprint of a network for ``data``."""
        return Blueprint.of(data, self.config)

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`. The rule ``paper-val`` keeps the epoch with the best validation accuracy.

        Raises:
            ConfigError: If the network cannot be built for ``data``.
        """
        data = self.inputs(data)
        self.create(data)
        self.train(self.loaders(data), data)

    def create(self, data: SceneDataModule) -> None:
        """Set ``blueprint``, and ``module`` to an untrained module for ``data`` (as `inputs` returns them)."""
        self.blueprint = self.describe(data)
        self.module = training.initialised(lambda: self.build(self.blueprint), self.context, self.name)

    def loaders(self, data: SceneDataModule) -> Loaders:
        """Loaders of shuffled support windows and of the validation windows of the selection rule."""
        config, context = self.config, self.context
        train = data.shuffled_dataloader(
            (self.shuffle, context.draw, context.seed),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
            per_epoch=self.windows_per_epoch(data),
        )
        return Loaders(train, data.val_dataloader())

    def windows_per_epoch(self, data: SceneDataModule) -> int | None:
        """Largest number of support windows in an epoch; None for all."""
        return None

    def epochs(self, steps_per_epoch: int) -> int:
        """Number of epochs."""
        return int(self.config.epochs)

    def train(self, loaders: Loaders, data: SceneDataModule) -> None:
        """Train the module with the selection rule of the protocol."""
        training.fit(
            self.module,
            loaders,
            self.context,
            stage=self.stage,
            epochs=self.epochs(len(loaders.train)),
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
        """
        loader, callbacks = self._checked_inputs(data, pixels)
        return training.predict(self.module, loader, self.context, callbacks=callbacks)

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """See `Method.predict_with_confidence`. A subclass with its own `predict` has no confidence by default."""
        if type(self).predict is not NetworkMethod.predict:
            return super().predict_with_confidence(data, pixels)
        loader, callbacks = self._checked_inputs(data, pixels)
        return training.predict_with_confidence(self.module, loader, self.context, callbacks=callbacks)

    def prediction_inputs(self, data: SceneDataModule, pixels: IntArray) -> tuple[PixelLoader, Sequence[Callback]]:
        """Batches of the pixels of ``data`` (as `inputs` returns them), and callbacks of the trainer."""
        return data.pixel_dataloader(pixels), ()

    def _checked_inputs(self, data: SceneDataModule, pixels: IntArray) -> tuple[PixelLoader, Sequence[Callback]]:
        data = self.inputs(data)
        self.blueprint.check_inputs(self.describe(data), self.title)
        return self.prediction_inputs(data, pixels)

    def parameter_counts(self) -> ParameterCounts:
        """All parameters of the module, and those that require a gradient."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.module.parameters()]
        return ParameterCounts(sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable))

    def save(self, folder: Path) -> None:
        """See `save_network`."""
        save_network(folder, self.name, self.blueprint, self.module)

    def load(self, folder: Path) -> None:
        """See `load_network`."""
        self.blueprint, self.module = load_network(folder, self.name, self.config, self.build)
