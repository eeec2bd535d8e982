"""Files that the settings of a method name: where they lie, and the hash of their content.

A setting names a file as ``precomputed:<file>``, as ``open_clip:<model>/<file>``, or by its plain path. A relative path
starts at the folder of the method's card, not at the current folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmrs_bench.config import MethodSpec
from mmrs_bench.errors import BenchError, ConfigError, DataError
from mmrs_bench.io import content_hash, file_sha256
from mmrs_bench.methods.catalogue import card_folder, method_cards
from mmrs_bench.models.weights import missing_weights
from mmrs_bench.reading import read_yaml

PRECOMPUTED, OPEN_CLIP = "precomputed:", "open_clip:"
#: Fields of a ``precomputed:`` file that name further files.
FURTHER = ("vectors", "names")
#: Fields of a card that describe it and change no result.
DESCRIPTIONS = {"title", "reference"}
#: Content of a file that does not exist; the method reports it when it needs the file.
ABSENT = "absent"


def usable_config(config: dict[str, Any], card: str) -> dict[str, Any]:
    """Settings with absolute paths in place of paths that are relative to the card's folder.

    Args:
        config: Settings as in a card.
        card: Name of the method, or path of its card.
    """
    folder = card_folder(card)
    return {name: _absolute(value, folder) for name, value in config.items()}


def file_hashes(config: dict[str, Any], card: MethodSpec, card_path: str) -> dict[str, str]:
    """Hashes of the content of all files that a setting names, by setting; ``card`` is that of a card given by path.

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
    if card_path and method_cards().get(card.name) != card:
        hashes["card"] = content_hash(card.model_dump(mode="json", exclude=DESCRIPTIONS))
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
        absent = [path for _, path in _files(value, folder) if not _is_file(path)]
        lines += [f"there is no file {path} (setting {name} of {card.name}); correct the setting" for path in absent]
    return lines


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(item, folder) for item in value]
    if isinstance(value, dict):
        return {name: _absolute(item, folder) for name, item in value.items()}
    named = _named_file(value, folder) if isinstance(value, str) else None
    return value if named is None else f"{named[0]}{named[1]}"


def _named_file(text: str, folder: Path) -> tuple[str, Path] | None:
    """What stands before the path in a setting, and the file; None if the setting names none."""
    if text.startswith(PRECOMPUTED) and len(text) > len(PRECOMPUTED):
        return PRECOMPUTED, _path(text.removeprefix(PRECOMPUTED), folder)
    if text.startswith(OPEN_CLIP):
        model, _, weights = text.partition("/")
        path = _path(weights, folder)
        # The tags of open_clip have neither slashes nor endings.
        is_path = bool(weights) and ("/" in weights or "." in weights or _is_file(path))
        return (f"{model}/", path) if is_path else None
    path = _path(text, folder)
    return ("", path) if ("/" in text or path.suffix) and _is_file(path) else None


def _path(text: str, folder: Path) -> Path:
    try:
        return (folder / Path(text).expanduser()).absolute()
    except RuntimeError as error:
        raise ConfigError(f"{text}: the home folder of this user is unknown; give an absolute path") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no path: too long, or with a NUL character
        return False


def _files(value: Any, folder: Path) -> Iterator[tuple[str, Path]]:
    """The files that a setting names, and those that a ``precomputed:`` file names, with the texts that name them."""
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _files(item, folder)
    named = _named_file(value, folder) if isinstance(value, str) else None
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


def _content(path: Path) -> str:
    if not _is_file(path):
        return ABSENT
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the file and its rights") from error
