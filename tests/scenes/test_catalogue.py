"""Scenes by name and path: shipped, simulated and installed ones, and files that are not manifests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_release import manifest_fields, write_manifest

from mmrs_bench.errors import ConfigError, ManifestError
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes import catalogue
from mmrs_bench.scenes.catalogue import load_manifest, read_manifest, shipped_names

SHIPPED = ["augsburg", "berlin", "houston2013", "houston2013-original", "muufl", "simulated", "trento"]
TWINS = ["augsburg", "berlin", "houston2013", "muufl", "trento"]


def test_every_real_scene_has_one_twin_for_all_its_releases() -> None:
    assert shipped_names() == [*SHIPPED, *(f"sim-{name}" for name in TWINS)]


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_the_sizes_and_classes_of_the_real_scene(name: str) -> None:
    twin, real = load_manifest(f"sim-{name}"), load_manifest(name)
    assert (twin.simulated, real.simulated) == (True, False)
    assert (twin.height, twin.width, twin.classes) == (real.height, real.width, real.classes)
    assert twin.fingerprint != real.fingerprint


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean trento"):
        load_manifest("trentoo")
    with pytest.raises(ManifestError, match=r"^nowhere/scene\.yaml: does not exist; give the path of a manifest"):
        load_manifest("nowhere/scene.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1, 2", "is not valid YAML"), ("- 1\n- 2\n", r"the whole content: .* valid dictionary .*found \[1, 2\]")],
)
def test_a_file_that_is_not_a_manifest_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=rf"^{path}: .*{message}"):
        read_manifest(path)


def test_the_manifest_in_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "adding-a-scene.md").read_text(encoding="utf-8")
    (tmp_path / "town.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    assert read_manifest(tmp_path / "town.yaml").tag == "my-town-r1"


def test_an_installed_scene_is_found_by_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_manifest(tmp_path, manifest_fields())
    monkeypatch.setattr(catalogue, "entry_point_paths", lambda group: [("my-town", path)])
    assert "my-town" in shipped_names()
    assert load_manifest("my-town").path == path
    with pytest.raises(ConfigError, match="did you mean my-town"):
        load_manifest("my-tow")
    monkeypatch.setattr(catalogue, "entry_point_paths", lambda group: [("trento", path)])
    with pytest.raises(ManifestError, match="registers 'trento', a shipped scene; rename it"):
        load_manifest("trento")
