"""Scenes that installed packages add by entry point."""

from __future__ import annotations

from pathlib import Path

from mmrs_bench.plugins import entry_point_paths

SCENE_GROUP = "mmrs_bench.scenes"


def entry_point_scenes() -> dict[str, Path]:
    """Paths of manifests by the name under which an installed package registers the scene.

    Raises:
        ConfigError: If an entry point cannot be loaded, does not give a path, or two share a name.
    """
    return dict(entry_point_paths(SCENE_GROUP))
