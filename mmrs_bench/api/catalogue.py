"""Methods and scenes: lists, a scene in memory, a data module."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mmrs_bench.api.tables import Tables
from mmrs_bench.evaluation.listing import methods_table, scenes_table

if TYPE_CHECKING:
    from mmrs_bench.scenes.datamodule import SceneDataModule
    from mmrs_bench.scenes.manifest import Manifest
    from mmrs_bench.scenes.scene import Scene


def list_methods() -> Tables:
    """The methods that ``run`` accepts.

    Returns:
        A table with the columns ``name``, ``variants`` (run one as ``name:variant``), ``selections``, ``weights``
        (required checkpoints), ``title`` and ``reference``.
    """
    return Tables((methods_table(),))


def list_scenes() -> Tables:
    """The scenes that ``run`` and ``load_scene`` accept.

    Returns:
        A table with the columns ``name``, ``size``, ``classes``, ``modalities``, ``official_split`` and ``title``.
    """
    return Tables((scenes_table(),))


def load_scene(name: str | os.PathLike[str] | Manifest, *, progress: bool = True) -> Scene:
    """Load a scene: simulate it, or fetch, verify and read its files.

    Args:
        name: Name of a scene, path of a manifest, or a manifest.
        progress: Whether to print a line for each file that is fetched.

    Returns:
        The scene, with raw float32 images (height, width, channels) by modality.

    Raises:
        ConfigError: If the name is unknown.
        ManifestError: If the manifest is invalid.
        DataError: If files are missing and cannot be fetched, or contradict the manifest.
    """
    from mmrs_bench.evaluation.run.display.console import line_printer
    from mmrs_bench.scenes import catalogue

    dataset = os.fspath(name) if isinstance(name, str | os.PathLike) else name
    return catalogue.load_scene(dataset, progress=line_printer(shown=progress))


def datamodule(
    name: str | os.PathLike[str] | Scene | Manifest, *, shots: int = 2, draw: int = 0, **protocol: Any
) -> SceneDataModule:
    """Create a Lightning data module of a scene; the scene is loaded at the first access.

    Args:
        name: Name of a scene, path of a manifest, a manifest, or a scene.
        shots: Labels per class.
        draw: Index of the support sample.
        protocol: Further arguments of `mmrs_bench.scenes.datamodule.SceneDataModule`, e.g. ``split``, ``window``,
            ``modalities``, ``batch_size``.

    Raises:
        ConfigError: If a setting is invalid.
    """
    from mmrs_bench.scenes.datamodule import SceneDataModule

    scene = os.fspath(name) if isinstance(name, str | os.PathLike) else name
    return SceneDataModule(scene, shots=shots, draw=draw, **protocol)
