"""Class vectors from a file, for machines without CLIP's weights.

A ``precomputed:`` tower names a YAML or JSON file with three fields; paths are relative to it::

    vectors: zegclip_coco_multi.npy      # (names, d), float
    names: coco_stuff_171_names.json     # one name per row
    classes:                             # classes of scenes -> names; the vectors of several names are ensembled
      Apple trees: [fruit, tree]
      Roads: road

The names of a class are those of ``text`` in the scene's manifest, else those of ``classes``, else near names (see
`near_names`). This module does not import torch.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from mmrs_bench.errors import ConfigError, DataError, nearest
from mmrs_bench.numpy_files import read_npy
from mmrs_bench.reading import read_json, read_yaml, validated

FILE_ADVICE = "use a file with the fields vectors, names, classes"
#: Words of names that mean nothing by themselves (COCO-Stuff's ``building-other``, ``door-stuff``).
FILLERS = frozenset({"other", "stuff"})
#: Shown in place of a name if no name is similar to a class.
NO_NAME = "a name"


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


class ClassNames(NamedTuple):
    """The names whose vectors are ensembled for a class, and what chose them."""

    names: tuple[str, ...]
    source: Literal["manifest", "file", "near"]


def precomputed_class_embeddings(
    file: Path, class_names: Sequence[str], given: Mapping[str, Sequence[str]] | None = None
) -> tuple[np.ndarray, list[int]]:
    """The vectors (p, d) float32 of a scene's classes, class after class, and the number of vectors of each class.

    The file may contain other classes as well.

    Args:
        file: A ``precomputed:`` file.
        class_names: The classes of the scene.
        given: Names by class, from ``text`` in the scene's manifest.

    Raises:
        ConfigError: If a class has no name, a name no row, or two classes share near names; all of them are listed.
        DataError: If a file is missing or damaged, or the numbers of vectors and names differ.
    """
    settings = _read_settings(file)
    names = _read_names(file.parent / settings.names)
    vectors = _read_vectors(file.parent / settings.vectors)
    if len(names) != len(vectors):
        raise DataError(
            f"{file}: {settings.names} has {len(names)} names, but {settings.vectors} has {len(vectors)} rows; list "
            "one name per row"
        )
    groups = _chosen_names(file, settings, names, class_names, given or {})
    rows = {name: row for row, name in enumerate(names)}
    selected = vectors[[rows[name] for group in groups.values() for name in group.names]]
    return selected, [len(group.names) for group in groups.values()]


def class_text_notes(file: Path, class_names: Sequence[str], given: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of classes that the file does not map, one line for each source of names, as lines of a manifest.

    Arguments and errors as `precomputed_class_embeddings`.
    """
    settings = _read_settings(file)
    groups = _chosen_names(file, settings, _read_names(file.parent / settings.names), class_names, given)
    titles = {"manifest": "class texts of the manifest", "near": f"class texts by near names of {settings.names}"}
    lines = []
    for source, title in titles.items():
        if found := {name: group.names for name, group in groups.items() if group.source == source}:
            lines.append(f"{title}: {text_line(found)}")
    return tuple(lines)


def near_names(class_name: str, terms: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The names of the terms that are near to a class; empty if there are none.

    Case, punctuation, plurals and the words of `FILLERS` do not count. Near are, if there are any,

    1. terms with the words of the class (``Trees``: ``tree``);
    2. terms whose words are all words of the class, without those that a longer one contains (``Dirt & sand``:
       ``dirt`` and ``sand``);
    3. terms that contain all words of the class (``Brick``: ``wall-brick``).

    Args:
        class_name: The class.
        terms: Names of vectors by term: each name itself, and each class that the file maps.
    """
    words = frozenset(_words(class_name))
    sets = {term: frozenset(_words(term)) - FILLERS for term in terms}
    same = [term for term, found in sets.items() if found and found == words]
    inside = [term for term, found in sets.items() if found and found < words]
    longest = [term for term in inside if not any(sets[term] < sets[other] for other in inside)]
    around = [term for term, found in sets.items() if words and words < found]
    return tuple(dict.fromkeys(name for term in same or longest or around for name in terms[term]))


def text_line(names: Mapping[str, Sequence[str]]) -> str:
    """``text`` of a manifest on one line: ``text: {Grass: [grass], "Dirt & sand": [dirt, sand]}``."""
    entries = (f"{_scalar(name)}: [{', '.join(map(_scalar, group))}]" for name, group in names.items())
    return f"text: {{{', '.join(entries)}}}"


def _chosen_names(
    file: Path,
    settings: TextVectors,
    known: Sequence[str],
    class_names: Sequence[str],
    given: Mapping[str, Sequence[str]],
) -> dict[str, ClassNames]:
    terms = {name: (name,) for name in known} | {name: settings.names_of(name) for name in settings.classes}
    groups = {name: _names_of(name, settings, terms, given) for name in class_names}
    if missing := [name for name, group in groups.items() if not group.names]:
        similar = {name: _similar(name, known) for name in missing}
        near = "; ".join(f"{', '.join(found)} for {name!r}" for name, found in similar.items() if found)
        example = text_line({name: found[:1] or [NO_NAME] for name, found in similar.items()})
        raise ConfigError(
            f"{file}: no vector for {', '.join(map(repr, missing))}{f' (similar names: {near})' if near else ''}; map "
            f"each class to one or more names of {settings.names}, in the manifest of the scene beside its classes "
            f"(for example {example}) or under 'classes' of this file"
        )
    unknown = [(name, owner) for owner, group in groups.items() for name in group.names if name not in known]
    if unknown:
        others = nearest(unknown[0][0], known)
        raise ConfigError(
            f"{file}: {settings.names} does not contain "
            + ", ".join(f"{name!r} of class {owner!r}" for name, owner in unknown)
            + (f"; similar names: {', '.join(others)}" if others else "")
        )
    _check_near_names(file, groups)
    return groups


def _names_of(
    class_name: str, settings: TextVectors, terms: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[str]]
) -> ClassNames:
    if class_name in given:
        return ClassNames(tuple(given[class_name]), "manifest")
    if mapped := settings.names_of(class_name):
        return ClassNames(mapped, "file")
    return ClassNames(near_names(class_name, terms), "near")


def _check_near_names(file: Path, groups: Mapping[str, ClassNames]) -> None:
    """Refuse near names that another class has, too, because the two could not be distinguished."""
    owners: dict[frozenset[str], str] = {}
    for class_name, group in groups.items():
        owner = owners.setdefault(frozenset(group.names), class_name)
        if owner == class_name or "near" not in (group.source, groups[owner].source):
            continue
        example = text_line({class_name: [*group.names, NO_NAME]})
        raise ConfigError(
            f"{file}: the near names of {owner!r} and {class_name!r} are the same ({', '.join(group.names)}); "
            f"distinguish them in the manifest of the scene, beside its classes, for example {example}"
        )


def _similar(class_name: str, known: Sequence[str]) -> list[str]:
    """Up to three names that are spelled like a class or one of its words."""
    words = sorted(_words(class_name), key=len, reverse=True)
    found = [name for text in (class_name, *words) if len(text) > 2 for name in nearest(text, known)]
    return list(dict.fromkeys(found))[:3]


def _words(text: str) -> list[str]:
    """Lower-case words in the singular."""
    return [_singular(word) for word in re.findall(r"[^\W_]+", text.lower())]


def _singular(word: str) -> str:
    """A word without an English plural ending; names and classes are changed in the same way, so it need not exist."""
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _scalar(text: str) -> str:
    """A text in a flow mapping of YAML, in quotes where they may be needed."""
    plain = re.fullmatch(r"[^\W\d_][\w/-]*( [\w/-]+)*", text) and text.lower() not in {
        *("y", "n", "yes", "no", "on", "off", "true", "false", "null")
    }
    return text if plain else json.dumps(text, ensure_ascii=False)


def _read_settings(file: Path) -> TextVectors:
    fields = read_yaml(file, error=DataError, advice=FILE_ADVICE)
    return validated(TextVectors, fields, where=file, error=DataError, advice=FILE_ADVICE)


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
