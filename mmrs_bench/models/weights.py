"""Pretrained checkpoints of methods: source, training data, terms of use, and place on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.paths import MANIFEST_DIR, RESTORE, cache_root
from mmrs_bench.reading import read_yaml, validated

WEIGHTS_FILE = MANIFEST_DIR / "weights.yaml"
_HUGGING_FACE = re.compile(r"https://huggingface\.co/(?P<repository>[^/]+/[^/]+)/resolve/main/(?P<file>.+)")


class Weights(BaseModel):
    """One entry of ``data_manifests/weights.yaml``.

    Attributes:
        name: Name in method cards (``needs_weights``).
        tower: Setting that selects it in method cards (``open_clip:<model>/<tag>``), for text towers.
        file: Name of the checkpoint file on this machine, unique among all entries.
        url: Its address.
        sha256: Its hash; None if the publisher states none.
        original, original_sha256: Address and hash of the authors' own file with the same weights, if different.
        trained_on: Training data of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    tower: str | None = None
    file: str
    url: str
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    original: str | None = None
    original_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    licence: str
    trained_on: str

    @property
    def fetch(self) -> str:
        """Shell command that downloads the file to `path`."""
        return f"mmrs-bench weights fetch {self.name}"

    @property
    def path(self) -> Path:
        """Where the file is fetched to: ``<cache>/weights/<file>``."""
        return cache_root() / "weights" / self.file

    def local_file(self) -> Path | None:
        """The file on this machine: `path`, or what open_clip left in the Hugging Face cache; None if it is absent."""
        if self.path.is_file():
            return self.path
        found = _HUGGING_FACE.fullmatch(self.url)
        if found is None:
            return None
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(found["repository"], found["file"])
        return Path(cached) if isinstance(cached, str) else None

    def describe(self) -> str:
        """Addresses and hashes, for messages."""
        stated = f"{self.url}, sha256 {self.sha256 or 'not stated by its publisher'}"
        return stated + (f"; made from {self.original}, sha256 {self.original_sha256}" if self.original else "")


@cache
def all_weights() -> tuple[Weights, ...]:
    """All entries of ``data_manifests/weights.yaml``."""
    return load_weights(WEIGHTS_FILE)


def load_weights(path: Path) -> tuple[Weights, ...]:
    """All entries of a file like ``data_manifests/weights.yaml``.

    Raises:
        ConfigError: If the file cannot be read or a field is wrong.
    """
    content = read_yaml(path, error=ConfigError, advice=RESTORE)
    entries = content.get("weights") if isinstance(content, dict) else None
    adapter = TypeAdapter(tuple[Weights, ...])
    return validated(adapter, entries, where=path, error=ConfigError, advice=RESTORE)


@cache
def known_weights() -> dict[str, Weights]:
    """The entries of text towers, by ``tower``."""
    return {entry.tower: entry for entry in all_weights() if entry.tower}


def weights_named(name: str) -> Weights:
    """The entry with a name.

    Raises:
        ConfigError: If the name is unknown.
    """
    by_name = {entry.name: entry for entry in all_weights()}
    if name not in by_name:
        raise unknown_name("checkpoint", name, by_name)
    return by_name[name]


def missing_weights(names: Iterable[str], settings: Mapping[str, Any]) -> list[Weights]:
    """The checkpoints that a method needs and this machine lacks.

    Args:
        names: Those that the method's card needs; one of a text tower counts only if a setting selects it.
        settings: Settings of the method.
    """
    return [entry for entry in needed_weights(names, settings) if entry.local_file() is None]


def needed_weights(names: Iterable[str], settings: Mapping[str, Any]) -> list[Weights]:
    """The checkpoints that a method needs; arguments as of `missing_weights`."""
    selected = {value for value in settings.values() if isinstance(value, str)}
    needed = [entry for name in names if (entry := weights_named(name)).tower is None]
    return needed + [entry for tower, entry in known_weights().items() if tower in selected]
