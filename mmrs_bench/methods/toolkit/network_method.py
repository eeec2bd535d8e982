"""Fitted networks on file: their weights (safetensors) beside what they are built from (JSON)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write, write_json
from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.scenes.datamodule import SceneDataModule

AGAIN = "fit and save it again"


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
    try:
        blueprint = Blueprint.model_validate_json(description_file(folder, name).read_text(encoding="utf-8"))
        weights = load_file(weights_file(folder, name))
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder}: no saved {name} can be read here ({_line(error)}); {AGAIN}") from error
    settings = config.model_dump(mode="json")
    others = [key for key, value in settings.items() if blueprint.settings.get(key) != value]
    if others:
        raise DataError(f"{folder}: was saved with other settings ({', '.join(others)}); use those it was saved with")
    broken = [key for key, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise DataError(f"{folder}: {', '.join(broken)} hold values that are not numbers; {AGAIN}")
    network = build(blueprint, weights)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: the weights do not fit {name}.json beside them ({_line(error)}); {AGAIN}"
        ) from error
    return blueprint, network.eval()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
