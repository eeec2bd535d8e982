"""Class vectors from a file, for machines without CLIP's weights.

A ``precomputed:`` tower names a YAML or JSON file with three fields; paths are relative to it::

    vectors: zegclip_coco_multi.npy      # (names, d), float
    names: coco_stuff_171_names.json     # one name per row
    classes:                             # classes of scenes -> names; the vectors of several names are ensembled
      Apple trees: [fruit, tree]
      Roads: road
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.numpy_files import read_npy
from mmrs_bench.reading import read_json, read_yaml, validated

FILE_ADVICE = "use a file with the fields vectors, names, classes"


class TextVectors(BaseModel):
    """The content of a ``precomputed:`` file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vectors: str
    names: str
    classes: dict[str, str | tuple[str, ...]]

    def names_of(self, class_name: str) -> tuple[str, ...]:
        """The names that are mapped to a class; empty if there are none."""
        names = self.classes.get(class_name, ())
        return (names,) if isinstance(names, str) else names


def precomputed_class_embeddings(file: Path, class_names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """The vectors (p, d) float32 of a scene's classes, class after class, and the number of vectors of each class.

    The file may contain other classes as well.

    Raises:
        ConfigError: If a class has no name, or a name no row; all of them are listed.
        DataError: If a file is missing or damaged, or the numbers of vectors and names differ.
    """
    fields = read_yaml(file, error=DataError, advice=FILE_ADVICE)
    settings = validated(TextVectors, fields, where=file, error=DataError, advice=FILE_ADVICE)
    names = _read_names(file.parent / settings.names)
    vectors = _read_vectors(file.parent / settings.vectors)
    if len(names) != len(vectors):
        raise DataError(
            f"{file}: {settings.names} has {len(names)} names, but {settings.vectors} has {len(vectors)} rows; list "
            "one name per row"
        )
    groups = {class_name: settings.names_of(class_name) for class_name in class_names}
    missing = [class_name for class_name, group in groups.items() if not group]
    if missing:
        raise ConfigError(
            f"{file}: no vector for {', '.join(map(repr, missing))}; map each under 'classes' to one or more names of "
            f"{settings.names}"
        )
    rows = {name: row for row, name in enumerate(names)}
    unknown = [(name, class_name) for class_name, group in groups.items() for name in group if name not in rows]
    if unknown:
        near = difflib.get_close_matches(unknown[0][0], names, n=3, cutoff=0.5)
        raise ConfigError(
            f"{file}: {settings.names} does not contain "
            + ", ".join(f"{name!r} of class {class_name!r}" for name, class_name in unknown)
            + (f"; similar names: {', '.join(near)}" if near else "")
        )
    selected = vectors[[rows[name] for group in groups.values() for name in group]]
    return torch.from_numpy(selected), [len(group) for group in groups.values()]


def _read_names(file: Path) -> list[str]:
    names = read_json(file, error=DataError, advice="use a list of names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: is not a list of names; use a JSON list with one text per row of the vectors")
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f"{file}: contains {', '.join(repeated)} more than once; use different names for all rows")
    return names


def _read_vectors(file: Path) -> np.ndarray:
    """(rows, d) float32, each row finite and not zero."""
    vectors = read_npy(file, error=DataError, advice="save it with numpy.save")
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        found = f"{vectors.dtype} {vectors.shape}"
        raise DataError(f"{file}: contains {found}, expected floating-point numbers of shape (names, width)")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused below
        vectors = vectors.astype(np.float32)
    for rows, fault in ((~np.isfinite(vectors).all(axis=1), "NaN or infinite"), ((vectors == 0).all(axis=1), "zero")):
        if rows.any():
            raise DataError(f"{file}: row {int(rows.argmax())} is {fault}; compute the vectors again")
    return vectors
