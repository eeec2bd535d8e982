"""Files that the settings of a method name: where they lie, the hash of their content, and whether they are there.

`mmrs_bench.methods.setting_paths` recognises them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmrs_bench.config import MethodSpec
from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.io import content_hash, file_sha256
from mmrs_bench.methods.catalogue import card_folder, class_file, method_cards
from mmrs_bench.methods.setting_paths import OPEN_CLIP, PRECOMPUTED, absolute_paths, is_file, named_file
from mmrs_bench.models.weights import known_weights, missing_weights, needed_weights
from mmrs_bench.reading import read_yaml
from mmrs_bench.scenes.catalogue import load_manifest
from mmrs_bench.scenes.files.stamps import Stamps

#: Fields of a ``precomputed:`` file that name further files.
FURTHER = ("vectors", "names")
#: What to do if one of these is absent.
_GET_VECTORS = "put it there (docs/adding-a-scene.md, Class names as text, says where to get it)"
#: Fields of a card that describe it and change no result.
DESCRIPTIONS = {"title", "reference", "resources"}
#: Content of a file that does not exist; the method reports it when it needs the file.
ABSENT = "absent"


def usable_config(config: dict[str, Any], card: str) -> dict[str, Any]:
    """Settings with absolute paths in place of paths that are relative to the card's folder.

    Args:
        config: Settings as in a card.
        card: Name of the method, or path of its card.
    """
    folder = card_folder(card)
    return {name: absolute_paths(value, folder) for name, value in config.items()}


def file_hashes(config: dict[str, Any], card: MethodSpec, card_path: str) -> dict[str, str]:
    """Hashes of the content of all files that a setting names, by setting.

    ``card`` is that of a card given by path, ``class`` that of the file of its class, and ``weights:NAME`` that of a
    checkpoint, which no setting names by its path.

    Args:
        config: Settings as in a card.
        card: The card.
        card_path: Its path; empty for shipped and installed methods.

    Raises:
        DataError: If a file cannot be read.
    """
    folder = card_folder(card_path or card.name)
    hashes = {}
    for name, value in config.items():
        contents = [[text, _content(path)] for text, path in _files(value, folder)]
        if contents:
            hashes[name] = content_hash(contents)
    for entry in needed_weights(card.needs_weights, config):
        file = entry.local_file()
        hashes[f"weights:{entry.name}"] = ABSENT if file is None else _remembered_hash(file)
    described = card.model_dump(mode="json", exclude=DESCRIPTIONS)
    if code := class_file(card):
        hashes["class"] = _content(code)
        described["class_path"] = described["class_path"].rpartition(":")[2]  # not where the file lies
    if card_path and method_cards().get(card.name) != card:
        hashes["card"] = content_hash(described)
    return hashes


def missing_files(config: dict[str, Any], card: MethodSpec, card_path: str) -> list[str]:
    """What this machine lacks of the pretrained weights and files that settings name: one line each, with the remedy.

    Arguments as `file_hashes`.
    """
    folder = card_folder(card_path or card.name)
    lines = [
        f"{entry.title}: its checkpoint is not on this machine, expected {entry.path}. Fetch it with: {entry.fetch}"
        for entry in missing_weights(card.needs_weights, config)
    ]
    for name, value in config.items():
        for text, path in _files(value, folder):
            if not is_file(path):
                remedy = _GET_VECTORS if text in FURTHER else "correct the setting"
                lines.append(f"there is no file {path} (setting {name} of {card.name}); {remedy}")
        lines += _absent_towers(value, folder)
    return lines


def scene_notes(config: dict[str, Any], card: MethodSpec, card_path: str, dataset: str) -> tuple[str, ...]:
    """How settings apply to a scene, one line each: which names a ``precomputed:`` file has for its classes.

    Files that are absent are left out, see `missing_files`.

    Args:
        config: As ``card`` and ``card_path``, see `file_hashes`.
        card: The card.
        card_path: Its path.
        dataset: Name of the scene, or path of its manifest.

    Raises:
        ConfigError: If the file has no name for a class.
        DataError: If the file is faulty.
    """
    folder = card_folder(card_path or card.name)
    lines: list[str] = []
    for value in config.values():
        files = list(_files(value, folder))
        if files and files[0][0] == PRECOMPUTED and all(is_file(path) for _, path in files):
            from mmrs_bench.methods.clip.precomputed_text import class_text_notes

            manifest = load_manifest(dataset)
            lines += class_text_notes(files[0][1], manifest.class_names, manifest.text)
    return tuple(lines)


def _absent_towers(value: Any, folder: Path) -> Iterator[str]:
    """Why towers of open_clip that are not in ``data_manifests/weights.yaml`` cannot be loaded, if so."""
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _absent_towers(item, folder)
    is_tower = isinstance(value, str) and value.startswith(OPEN_CLIP) and value not in known_weights()
    if is_tower and named_file(value, folder) is None:
        from mmrs_bench.methods.clip.clip_checkpoint import checkpoint_file  # imports torch

        try:
            checkpoint_file(*value.removeprefix(OPEN_CLIP).split("/"))
        except BenchError as error:
            yield str(error)


def _files(value: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files that a setting names, and those that a ``precomputed:`` file names, with the texts that name them."""
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _files(item, folder)
    named = named_file(value, folder) if isinstance(value, str) else None
    if named is None:
        return
    kind, path = named
    yield kind, path
    if kind == PRECOMPUTED:
        for name in FURTHER:
            file = _mapping(path).get(name)
            if isinstance(file, str):
                yield name, path.parent / file


def _mapping(path: Path) -> dict[str, Any]:
    """The fields of a file; empty if it is faulty, which the method reports when it reads the file."""
    try:
        fields = read_yaml(path, error=DataError, advice="")
    except BenchError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _remembered_hash(path: Path) -> str:
    """The hash of a large file, which is read only if it has changed."""
    stamps = Stamps(path.parent)
    found = stamps.sha256(path.name)
    stamps.save(lambda _: None)
    return found or ABSENT


def _content(path: Path) -> str:
    if not is_file(path):
        return ABSENT
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error
