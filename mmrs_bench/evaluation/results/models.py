"""Fitted models on disk: one folder per cell, with a description that is written last.

The model of the record ``results/records/<scene>/<method>/<name>.json`` is the folder
``results/models/<scene>/<method>/<name>``. It contains the files of `mmrs_bench.methods.base.Method.save`, the
directions of principal components, and ``model.json``, which has the hash of every other file. A folder without
``model.json`` is no model.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.config import ExecutionConfig, ProtocolConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import record_path
from mmrs_bench.evaluation.results.schema import Provenance
from mmrs_bench.io import atomic_write, content_hash, disk_errors, file_sha256, write_json
from mmrs_bench.numpy_files import read_npz
from mmrs_bench.reading import read_json, validated
from mmrs_bench.scenes.manifest import SceneClass

DESCRIPTION = "model.json"
COMPONENTS = "components.npz"

_ADVICE = "remove its folder, and train it again with mmrs-bench run --save-models"


class ModelCard(BaseModel):
    """The content of ``model.json``: all that is needed to classify a scene.

    Attributes:
        key: Key of the record.
        protocol: Protocol of the record.
        dataset: Name of the training scene, or path of its manifest.
        card_path: Path of the method's card; empty for shipped and installed methods.
        class_path: ``module:Class`` of the method.
        settings: Settings of the method, with absolute paths.
        classes: Names and colours by class id.
        bands: Bands of the training scene by modality, in the order in which the method receives them.
        channels: Channels by modality after PCA.
        channel_names: Names of the bands by modality, where the training scene's manifest gives them.
        wavelengths_nm: Band centres by modality, where it gives them.
        execution: Device, precision and batch size of the training.
        signature: The protocol in one line.
        provenance: Commit and versions of the code.
        files: SHA-256 of the other files by path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    key: str
    protocol: ProtocolConfig
    dataset: str
    card_path: str
    class_path: str
    settings: dict[str, Any]
    classes: tuple[SceneClass, ...]
    bands: dict[str, int]
    channels: dict[str, int]
    channel_names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    wavelengths_nm: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    execution: ExecutionConfig
    signature: str
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def cell(self) -> Cell:
        """The cell of the model."""
        return Cell(self.dataset, self.protocol, self.card_path)


def model_folder(results: Path, protocol: ProtocolConfig) -> Path:
    """Folder of a cell's model."""
    record = record_path(results, protocol)
    return results.joinpath("models", *record.parts[-3:-1], record.stem)


def has_model(results: Path, protocol: ProtocolConfig) -> bool:
    """Whether a cell has a complete model."""
    return (model_folder(results, protocol) / DESCRIPTION).is_file()


def remove_model(results: Path, protocol: ProtocolConfig) -> None:
    """Take away the description of a cell's model, if there is one: it is of another training than the new record.

    Raises:
        BenchError: If the folder cannot be written.
    """
    path = model_folder(results, protocol) / DESCRIPTION
    with disk_errors(path.parent):
        path.unlink(missing_ok=True)


def save_model(
    folder: Path, card: ModelCard, write: Callable[[Path], object], axes: Mapping[int, NDArray[np.float64]]
) -> None:
    """Write a model; an earlier one in the folder is removed first.

    Args:
        folder: Folder of the model.
        card: Its description; ``files`` are added here.
        write: Writes the files of the fitted method to a folder.
        axes: Directions of principal components, see `mmrs_bench.scenes.inference.InferenceDataModule`.

    Raises:
        BenchError: If the folder cannot be written.
    """
    with disk_errors(folder):
        (folder / DESCRIPTION).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        if axes:
            arrays: dict[str, Any] = {str(count): directions for count, directions in axes.items()}
            atomic_write(folder / COMPONENTS, lambda file: np.savez(file, allow_pickle=False, **arrays))
        files = {name: file_sha256(folder / name) for name in _files(folder)}
    fields = card.model_copy(update={"files": files}).model_dump(mode="json", by_alias=True)
    write_json(folder / DESCRIPTION, {**fields, "sha256": content_hash(fields)})


def read_model(path: Path) -> tuple[Path, ModelCard]:
    """The folder of a model, and its description, after all files were checked.

    Args:
        path: The folder, or the path of the record of the same cell.

    Raises:
        ConfigError: If there is no model.
        DataError: If a file is missing, damaged or was edited.
    """
    folder = _folder_of(path)
    description = folder / DESCRIPTION
    fields = read_json(description, error=DataError, advice=_ADVICE)
    stated = fields.pop("sha256", None) if isinstance(fields, dict) else None
    card = validated(ModelCard, fields, where=description, error=DataError, advice=_ADVICE)
    if card.key != card.protocol.key or stated != content_hash(fields):
        raise DataError(f"{description}: was edited after it was written; {_ADVICE}")
    with disk_errors(folder):
        found = set(_files(folder))
        if different := sorted(found ^ card.files.keys()):
            state = (
                "is missing" if different[0] in card.files else f"is not a file of this model; remove it, or {_ADVICE}"
            )
            raise DataError(
                f"{folder / different[0]}: {state}" + (f"; {_ADVICE}" if different[0] in card.files else "")
            )
        for name, sha256 in card.files.items():
            if file_sha256(folder / name) != sha256:
                raise DataError(f"{folder / name}: is damaged or was changed after it was written; {_ADVICE}")
    return folder, card


def read_axes(folder: Path) -> dict[int, NDArray[np.float64]]:
    """The directions of principal components that `save_model` wrote; empty if there are none.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / COMPONENTS
    if not path.exists():
        return {}
    arrays = read_npz(path, error=DataError, advice=_ADVICE)
    for name, array in arrays.items():
        if not name.isdecimal() or array.shape[:1] != (int(name),) or array.ndim != 2 or array.dtype != np.float64:
            raise DataError(f"{path}: {name} is no array of {name} directions; {_ADVICE}")
    return {int(name): array for name, array in arrays.items()}


def _folder_of(path: Path) -> Path:
    """The folder of a model, given this folder, its description or the record of its cell."""
    path = path.absolute()
    if path.name == DESCRIPTION:
        path = path.parent
    if path.suffix == ".json" and len(path.parts) > 3 and path.parts[-4] == "records":
        folder = path.parents[3].joinpath("models", *path.parts[-3:-1], path.stem)
        if path.is_file() and not (folder / DESCRIPTION).is_file():
            raise ConfigError(f"{path}: this cell has no model; add --save-models to the mmrs-bench run that made it")
        path = folder
    if not (path / DESCRIPTION).is_file():
        state = "does not exist"
        if path.exists():
            state = f"has no {DESCRIPTION}" if path.is_dir() else "is neither the folder of a model nor a record"
        raise ConfigError(
            f"{path}: {state}; give a folder below RESULTS/models, which mmrs-bench run --save-models writes, or the "
            "record of its cell"
        )
    return path


def _files(folder: Path) -> list[str]:
    """Relative paths of all files but the description and hidden ones."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = (PurePosixPath(path).as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    return sorted(name for name in names if name != DESCRIPTION)
