"""Text vectors on file: real CLIP semantics without CLIP's weights.

The file that a ``precomputed:`` tower names is YAML (or JSON) with three fields; paths are relative to it::

    vectors: zegclip_coco_multi.npy      # (names, d), float
    names: coco_stuff_171_names.json     # one name a row
    classes:                             # the scene's classes -> names; the vectors of several names are ensembled
      Apple trees: [fruit, tree]
      Roads: road
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.reading import read_json, read_yaml, validated


class TextVectors(BaseModel):
    """The content of a ``precomputed:`` file (see the module's text)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vectors: str
    names: str
    classes: dict[str, str | tuple[str, ...]]

    def names_of(self, class_name: str) -> tuple[str, ...]:
        """The names whose vectors stand for a class; empty where it has none."""
        names = self.classes.get(class_name, ())
        return (names,) if isinstance(names, str) else names


def precomputed_class_embeddings(file: Path, class_names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Vectors of the names that stand for a scene's classes.

    The file may map more classes than the scene has, so that one file serves several scenes.

    Args:
        file: The YAML or JSON file.
        class_names: k names, in target order.

    Returns:
        The vectors (p, d) float32, class after class, and how many each class has.

    Raises:
        ConfigError: If a class has no name, or a name no row; all of them are listed.
        DataError: If a file is missing or damaged, or vectors and names do not fit each other.
    """
    settings = _read_settings(file)
    names = _read_names(file.parent / settings.names)
    vectors = _read_vectors(file.parent / settings.vectors)
    if len(names) != len(vectors):
        raise DataError(
            f"{file}: {settings.names} has {len(names)} names, {settings.vectors} {len(vectors)} rows; give each row "
            "its name"
        )
    missing = [name for name in class_names if not settings.names_of(name)]
    if missing:
        raise ConfigError(
            f"{file}: no vector for {', '.join(map(repr, missing))}; map each under 'classes' to one or more names of "
            f"{settings.names}"
        )
    groups = [settings.names_of(name) for name in class_names]
    rows = {name: row for row, name in enumerate(names)}
    unknown = [
        f"{n!r} of class {c!r}" for c, group in zip(class_names, groups, strict=True) for n in group if n not in rows
    ]
    if unknown:
        near = difflib.get_close_matches(unknown[0].split("'")[1], names, n=3, cutoff=0.5)
        raise ConfigError(
            f"{file}: {settings.names} has no {', '.join(unknown)}{'; near: ' + ', '.join(near) if near else ''}"
        )
    picked = vectors[[rows[name] for group in groups for name in group]]
    return torch.from_numpy(picked), [len(group) for group in groups]


def _read_settings(file: Path) -> TextVectors:
    advice = "give a file with the fields vectors, names, classes"
    fields = read_yaml(file, error=DataError, advice=advice)
    return validated(TextVectors, fields, where=file, error=DataError, advice=advice)


def _read_names(file: Path) -> list[str]:
    names = read_json(file, error=DataError, advice="give a list of names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: is not a list of names; give a JSON list with one text for each row of the vectors")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file}: {', '.join(twice)} stand there more than once; give each row a name of its own")
    return names


def _read_vectors(file: Path) -> np.ndarray:
    """(rows, d) float32, each row finite and not zero."""
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{file}: cannot be read as .npy numbers ({_one_line(error)}); save it with numpy.save"
        ) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        found = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else "an archive"
        raise DataError(f"{file}: holds {found}, expected floating-point numbers of shape (names, width)")
    vectors = vectors.astype(np.float32)
    for row, fault in ((~np.isfinite(vectors).all(axis=1), "NaN or infinite"), ((vectors == 0).all(axis=1), "zero")):
        if row.any():
            raise DataError(f"{file}: row {int(row.argmax())} is {fault}; compute the vectors again")
    return vectors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
