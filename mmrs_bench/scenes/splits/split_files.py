"""Committed split files: the support order of a scene's first draws, bound to its ground truth by hash."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmrs_bench.config import SplitName
from mmrs_bench.errors import SplitError
from mmrs_bench.io import content_hash, write_json
from mmrs_bench.paths import BENCHMARK_DIR
from mmrs_bench.reading import read_json
from mmrs_bench.scenes.scene import Scene
from mmrs_bench.scenes.splits.blocks import REFERENCE_WINDOW, BlockAssignment
from mmrs_bench.scenes.splits.support import SupportOrder, draw_order, official_pixels

SPLIT_DIR = BENCHMARK_DIR / "splits"
SPLIT_SCHEMA = 1


def split_file(scene: Scene, name: SplitName) -> Path:
    """Where a scene's committed split lies, whether or not it exists."""
    return SPLIT_DIR / scene.manifest.id / f"{name}.json"


def write_split_file(
    scene: Scene, name: SplitName, *, draws: int = 20, shots: int = 40, path: Path | None = None
) -> Path:
    """Write the support order of a scene's first draws; return the file.

    Args:
        scene: The scene.
        name: Protocol.
        draws: Number of draws, from 0.
        shots: Ordered pixels kept per class and draw.
        path: Destination; by default the committed file of the scene.

    Raises:
        SplitError: If a class has fewer than ``shots`` pixels to draw from, or the scene has no such split.
        BenchError: If the file cannot be written.
    """
    entries = []
    for draw in range(draws):
        order = draw_order(scene, name, draw, REFERENCE_WINDOW)
        short = [k + 1 for k, pixels in enumerate(order.pixels) if pixels.size < shots]
        if short:
            raise SplitError(
                f"{name} on {scene.manifest.id}, draw {draw}: classes {short} have fewer than {shots} pixels to draw "
                "support from; write the file for fewer shots."
            )
        entry: dict[str, Any] = {"classes": [pixels[:shots].tolist() for pixels in order.pixels]}
        if order.blocks is not None:
            entry["blocks"] = {"side": order.blocks.side, "train": list(order.blocks.train)}
        entries.append(entry)
    content = {**_identity(scene, name), "shots": shots, "draws": entries}
    destination = path or split_file(scene, name)
    write_json(destination, {**content, "sha256": content_hash(content)}, indent=None)
    return destination


def committed_order(scene: Scene, name: SplitName, *, shots: int, draw: int, window: int) -> SupportOrder | None:
    """The committed support order, or None where no committed file covers this scene, draw, shots and window.

    Raises:
        SplitError: If the file cannot be read or its content does not have the hash that it states.
    """
    path = split_file(scene, name)
    if not path.is_file() or (name == "block-v1" and window > REFERENCE_WINDOW):
        return None
    content = _read_verified(path, path.stat().st_mtime_ns)
    identity = _identity(scene, name)
    if any(content.get(field) != value for field, value in identity.items()):
        return None
    if draw >= len(content["draws"]) or shots > content["shots"]:
        return None
    entry = content["draws"][draw]
    blocks = entry.get("blocks")
    return SupportOrder(
        tuple(np.asarray(pixels, dtype=np.int64) for pixels in entry["classes"]),
        None if blocks is None else BlockAssignment(blocks["side"], tuple(blocks["train"])),
    )


def _identity(scene: Scene, name: SplitName) -> dict[str, Any]:
    """What a file must agree with: another ground truth or other official pixels need another split."""
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
def _read_verified(path: Path, _modified_ns: int) -> dict[str, Any]:
    advice = "restore the committed file"
    content = read_json(path, error=SplitError, advice=advice)
    stated = content.pop("sha256", None) if isinstance(content, dict) else None
    found = content_hash(content)
    if stated != found:
        raise SplitError(f"split file {path} is corrupt: it states sha256 {stated}, its content has {found}; {advice}.")
    return content  # type: ignore[no-any-return]
