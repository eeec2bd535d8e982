"""Committed split files: the support order of a scene's first draws, valid for one ground truth."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.io import content_hash, write_json
from mmrs_bench.paths import BENCHMARK_DIR, RESTORE
from mmrs_bench.reading import read_json, validated
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.blocks import REFERENCE_WINDOW, BlockAssignment
from mmrs_bench.scenes.splits.support import SupportOrder, draw_order, official_pixels

SPLIT_DIR = BENCHMARK_DIR / "splits"
SPLIT_SCHEMA = 1

_Index = Annotated[int, Field(ge=0, lt=2**48)]


class _Draw(BaseModel):
    classes: tuple[tuple[_Index, ...], ...]
    blocks: BlockAssignment | None = None


class _SplitFile(BaseModel):
    """The fields beside those of `_identity`."""

    model_config = ConfigDict(extra="allow")

    shots: int
    draws: tuple[_Draw, ...]


def split_file(scene: Scene, name: SplitName) -> Path:
    """Path of a scene's committed split file, which may not exist."""
    return SPLIT_DIR / scene.manifest.id / f"{name}.json"


def write_split_file(scene: Scene, name: SplitName, *, draws: int = 20, shots: int = 40) -> Path:
    """Write the support order of a scene's first draws, up to ``shots`` pixels per class; return the path.

    Raises:
        SplitError: If a class has fewer than ``shots`` support candidates, or the scene has no such split.
        BenchError: If the file cannot be written.
    """
    entries = []
    for draw in range(draws):
        order = draw_order(scene, name, draw, REFERENCE_WINDOW)
        if short := [k for k, pixels in enumerate(order.pixels, start=1) if pixels.size < shots]:
            raise SplitError(f"{name}, draw {draw}: classes {short} have no {shots} candidates; use fewer shots.")
        entry: dict[str, Any] = {"classes": [pixels[:shots].tolist() for pixels in order.pixels]}
        if order.blocks is not None:
            entry["blocks"] = order.blocks._asdict()
        entries.append(entry)
    content = {**_identity(scene, name), "shots": shots, "draws": entries}
    path = split_file(scene, name)
    write_json(path, {**content, "sha256": content_hash(content)}, indent=None)
    return path


def committed_order(scene: Scene, name: SplitName, *, shots: int, draw: int, window: int) -> SupportOrder | None:
    """The committed support order; None if no committed file covers this scene, draw, shots and window.

    Raises:
        SplitError: If the file cannot be read or its content does not have its stated hash.
    """
    path = split_file(scene, name)
    if not path.is_file() or (name == "block-v1" and window > REFERENCE_WINDOW):
        return None
    content, file = _read_verified(path, path.stat().st_mtime_ns)
    if draw >= len(file.draws) or shots > file.shots or not _identity(scene, name).items() <= content.items():
        return None
    entry = file.draws[draw]
    classes = tuple(np.array(pixels, np.int64) for pixels in entry.classes)
    expected = [file.shots] * len(scene.manifest.classes)
    if [len(pixels) for pixels in classes] != expected or any((p >= scene.ground_truth.size).any() for p in classes):
        raise SplitError(f"{path}: draw {draw} does not list {file.shots} pixels of the scene per class; {RESTORE}.")
    return SupportOrder(classes, entry.blocks)


def _identity(scene: Scene, name: SplitName) -> dict[str, Any]:
    """Fields of a file that must match the scene and its official pixels."""
    identity: dict[str, Any] = {
        "schema": SPLIT_SCHEMA,
        "scene": scene.manifest.id,
        "revision": scene.manifest.revision,
        "ground_truth_sha256": scene.ground_truth_sha256,
        "protocol": name,
    }
    if name == "official-v1":
        identity["official_sha256"] = content_hash([np.sort(pixels).tolist() for pixels in official_pixels(scene)])
    return identity


@lru_cache(maxsize=8)
def _read_verified(path: Path, _modified_ns: int) -> tuple[dict[str, Any], _SplitFile]:
    content = read_json(path, error=SplitError, advice=RESTORE)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    found = content_hash(content)
    if stated != found:
        raise SplitError(f"{path}: is corrupt, it states sha256 {stated}, its content has {found}; {RESTORE}.")
    return content, validated(_SplitFile, content, where=path, error=SplitError, advice=RESTORE)
