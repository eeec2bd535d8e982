"""Fake method cards and one tiny scene, for tests that build and run cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny import tiny_manifest

from mmrs_bench.methods import catalogue
from mmrs_bench.methods.base import Method
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.scene import Scene

#: Labelled pixels by class in the manifests of `write_manifest`.
CLASS_COUNTS = (60, 20, 90)


class UnsavedMethod(Method):
    """A method whose fitted state is never saved."""

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    load = save


@contextmanager
def fake_cards(folder: Path, monkeypatch: pytest.MonkeyPatch, *cards: dict[str, Any]) -> Iterator[None]:
    """Replace all method cards; fields that a card does not have get a fake value."""
    folder.mkdir()
    for fields in cards:
        card = {"version": 1, "class_path": "nowhere:Nothing", "title": "Fake", "reference": "none", **fields}
        (folder / f"{card['name']}.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.setattr(catalogue, "CARD_DIR", folder)
    monkeypatch.setattr(catalogue, "entry_point_paths", lambda group: [])
    catalogue.method_cards.cache_clear()
    yield
    catalogue.method_cards.cache_clear()


@contextmanager
def fake_scene(scene: Scene, manifest_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Write a scene's manifest and let the runner load the scene for it; yields a log of the loads."""
    from mmrs_bench.evaluation.run import runner

    fields = scene.manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    manifest_path.write_text(yaml.safe_dump(fields))
    loaded: list[str] = []

    def load_scene(manifest: Manifest) -> Scene:
        loaded.append(manifest.id)
        return replace(scene, manifest=manifest)

    monkeypatch.setattr(runner, "load_scene", load_scene)
    runner._scene.cache_clear()
    yield loaded
    runner._scene.cache_clear()


def write_manifest(folder: Path, scene_id: str = "tiny", **changes: Any) -> str:
    """Write the manifest of a simulated scene with 3 classes; return its path."""
    bands = {"hsi": 4, "lidar": 1}
    fields = tiny_manifest(15, 30, 3, bands, scene_id).model_dump(mode="json", by_alias=True, exclude_none=True)
    for entry, count in zip(fields["classes"], CLASS_COUNTS, strict=True):
        entry |= {"name": f"c{entry['id']}", "count": count}
    fields = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    path = folder / f"{scene_id}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return str(path)
