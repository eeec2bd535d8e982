"""Pretrained checkpoints of methods: source, training data, terms of use and download command."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.paths import MANIFEST_DIR
from mmrs_bench.reading import read_yaml, validated

WEIGHTS_FILE = MANIFEST_DIR / "weights.yaml"
RESTORE = "restore the committed file"


class Weights(BaseModel):
    """One entry of ``data_manifests/weights.yaml``.

    Attributes:
        name: Name in method cards (``needs_weights``).
        tower: Setting that selects it in method cards (``open_clip:<model>/<tag>``), for text towers.
        file, url: Name and address of the checkpoint file.
        sha256: Its hash; None if the publisher states none.
        original, original_sha256: Address and hash of the authors' own file with the same weights, if different.
        trained_on: Training data of the weights.
        fetch: Shell command that downloads the file to where methods look for it.
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
    fetch: str

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
