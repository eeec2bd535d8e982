"""Methods whose fitted state is one network: a base class, and the files that it saves.

A fitted network is saved as weights (safetensors) beside a description of what it is built from (JSON).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import lightning as L
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write, write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.classification import VALIDATION_METRIC
from mmrs_bench.reading import read_json, validated
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import LoaderView
from mmrs_bench.scenes.scene import IntArray

REFIT_ADVICE = "fit and save it again"


class Blueprint(BaseModel):
    """What a saved network is built from, and the settings that it was fitted with.

    Attributes:
        channels: Modalities and their channels; pairs, because their order counts and objects of JSON have none.
        side: Window side in pixels.
        class_names: In target order.
        settings: Of the method.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[tuple[str, int], ...]
    side: int
    class_names: tuple[str, ...]
    settings: dict[str, Any]

    @classmethod
    def of(cls, data: SceneDataModule, config: MethodConfig) -> Blueprint:
        """The blueprint of a network for some data, as the method sees them."""
        return cls(
            channels=tuple(data.channels.items()),
            side=data.config.window,
            class_names=data.class_names,
            settings=config.model_dump(mode="json"),
        )

    def check_inputs(self, asked: Blueprint, title: str) -> None:
        """Refuse to classify with a fitted network what it cannot take.

        Args:
            asked: The blueprint of a network for the data that are to be classified.
            title: Of the method.

        Raises:
            ConfigError: If the windows have another side, or the modalities other channels or another order.
        """
        if (asked.channels, asked.side) != (self.channels, self.side):
            raise ConfigError(
                f"{title} was fitted to {self._inputs()}, but is to classify {asked._inputs()}; fit it to those"
            )

    def _inputs(self) -> str:
        channels = ", ".join(f"{name} {count}" for name, count in self.channels)
        return f"windows of {self.side} with channels {channels}"


NetworkT = TypeVar("NetworkT", bound=nn.Module)


def description_file(folder: Path, name: str) -> Path:
    """Where `save_network` writes the blueprint."""
    return folder / f"{name}.json"


def weights_file(folder: Path, name: str) -> Path:
    """Where `save_network` writes the weights."""
    return folder / f"{name}.safetensors"


def save_network(folder: Path, name: str, blueprint: Blueprint, network: nn.Module) -> None:
    """Write a network's weights and its blueprint to a folder."""
    content = save({key: tensor.contiguous() for key, tensor in network.state_dict().items()})
    atomic_write(weights_file(folder, name), lambda file: file.write(content))
    write_json(description_file(folder, name), blueprint.model_dump(mode="json"))


def load_network(
    folder: Path,
    name: str,
    config: MethodConfig,
    build: Callable[[Blueprint, Mapping[str, Tensor]], NetworkT],
) -> tuple[Blueprint, NetworkT]:
    """Read what `save_network` wrote.

    Args:
        folder: Its folder.
        name: Its name.
        config: Settings of the method that loads; they have to be those of the one that saved.
        build: Makes the network of a blueprint; also given the weights, for what else they tell.

    Returns:
        The blueprint and the network in evaluation mode.

    Raises:
        DataError: If a file is absent or damaged, the settings are others, or the weights do not fit or are not
            numbers.
    """
    description = description_file(folder, name)
    fields = read_json(description, error=DataError, advice=REFIT_ADVICE)
    blueprint = validated(Blueprint, fields, where=description, error=DataError, advice=REFIT_ADVICE)
    try:
        weights = load_file(weights_file(folder, name))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{weights_file(folder, name)}: cannot be read ({_line(error)}); {REFIT_ADVICE}") from error
    settings = config.model_dump(mode="json")
    others = [key for key, value in settings.items() if blueprint.settings.get(key) != value]
    if others:
        raise DataError(f"{folder}: was saved with other settings ({', '.join(others)}); use those it was saved with")
    broken = [key for key, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise DataError(f"{folder}: {', '.join(broken)} hold values that are not numbers; {REFIT_ADVICE}")
    network = build(blueprint, weights)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: the weights do not fit {name}.json beside them ({_line(error)}); {REFIT_ADVICE}"
        ) from error
    return blueprint, network.eval()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class NetworkMethod(Method):
    """A method whose fitted state is one network that is trained on the support set.

    A subclass sets ``Config``, ``name`` and ``title``, and defines `build` and `module`. The rest has defaults:
    training on shuffled support windows, selection, prediction, parameter counts, saving and loading. ``Config`` may
    have the settings ``components``, ``epochs``, ``batch_size`` and ``symmetries``.
    """

    #: Name of the saved files, and of the random stream of the initial weights.
    name: ClassVar[str]
    #: Name in messages.
    title: ClassVar[str]
    #: Name of the training stage in progress, logs and errors.
    stage: ClassVar[str] = "training"
    #: Name of the random stream that shuffles the support set.
    shuffle: ClassVar[str] = "support"

    network: Any
    blueprint: Blueprint

    @abstractmethod
    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The untrained network; random values come from torch's default generator.

        Args:
            blueprint: Channels, window side and classes.
            weights: When a saved network is loaded, its tensors by name; they are copied into the result.
        """

    @abstractmethod
    def module(self) -> L.LightningModule:
        """A new module that trains ``network``."""

    def predictor(self, data: SceneDataModule) -> L.LightningModule:
        """The module whose ``predict_step`` classifies the batches of some data; by default `module`."""
        return self.module()

    def check(self, data: SceneDataModule) -> None:
        """Refuse data that the network cannot be built for; accepts everything by default."""

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """The data as the network receives them: the HSI reduced to ``components``, if there is such a setting."""
        return data.with_components(getattr(self.config, "components", None))

    def describe(self, data: SceneDataModule) -> Blueprint:
        """The blueprint of a network for some data."""
        return Blueprint.of(data, self.config)

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept.

        Raises:
            ConfigError: If the network cannot be built for these data.
        """
        self.check(data)
        data = self.inputs(data)
        self.create(data)
        self.train(self.module(), self.loaders(data), data)

    def create(self, data: SceneDataModule) -> None:
        """Make the untrained network for some data, as `inputs` returns them."""
        self.blueprint = self.describe(data)
        self.network = training.initialised(lambda: self.build(self.blueprint), self.context, self.name)

    def loaders(self, data: SceneDataModule) -> LoaderView:
        """Shuffled support windows for training, and the validation windows of the selection rule."""
        config, context = self.config, self.context
        train = data.shuffled_dataloader(
            (self.shuffle, context.draw, context.seed),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
        )
        return data.serving(train=train, validate=data.val_dataloader())

    def epochs(self, steps_per_epoch: int) -> int:
        """Passes over the support set."""
        return int(self.config.epochs)

    def train(self, module: L.LightningModule, loaders: L.LightningDataModule, data: SceneDataModule) -> None:
        """Train a module in place, with the selection rule of the protocol."""
        training.fit(
            module,
            loaders,
            self.context,
            stage=self.stage,
            epochs=self.epochs(len(loaders.train_dataloader())),
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
        """
        data = self.inputs(data)
        self.blueprint.check_inputs(self.describe(data), self.title)
        return training.predict(self.predictor(data), data, pixels, self.context)

    def parameter_counts(self) -> ParameterCounts:
        """All parameters of the network, and those that require a gradient."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.network.parameters()]
        return ParameterCounts(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained))

    def save(self, folder: Path) -> None:
        """See `Method.save`: weights (safetensors) and blueprint (JSON)."""
        save_network(folder, self.name, self.blueprint, self.network)

    def load(self, folder: Path) -> None:
        """See `Method.load`.

        Raises:
            DataError: If a file is absent or damaged, or the weights do not fit the settings or are not finite.
        """
        self.blueprint, self.network = load_network(folder, self.name, self.config, self.build)
