"""Methods that cannot classify a scene: left out of ``all``, refused by name before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.fake_suite import fake_cards, write_manifest

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import PreflightError
from mmrs_bench.evaluation.cells import Suite, build_cells, left_out
from mmrs_bench.evaluation.run.preflight import preflight
from mmrs_bench.methods.catalogue import method_card, method_cards
from mmrs_bench.methods.setting_files import file_hashes
from mmrs_bench.methods.suitability import unmet_need
from mmrs_bench.scenes.catalogue import load_manifest

CARDS: list[dict[str, Any]] = [
    {"name": "alone"},
    {"name": "colourful", "needs_scene": ["hsi", "colours"]},
    {"name": "two", "needs_scene": ["hsi", "second-modality"], "variants": {"one": {"needs_scene": ["hsi"]}}},
]


@pytest.fixture
def _cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with fake_cards(tmp_path / "cards", monkeypatch, *CARDS):
        yield


@pytest.fixture
def suite(_cards: None, tmp_path: Path) -> Suite:
    return Suite(datasets=(write_manifest(tmp_path),), draws=2)


def methods(suite: Suite) -> list[str]:
    return list(dict.fromkeys(cell.method_label for cell in build_cells(suite)))


def test_all_leaves_out_what_a_scene_does_not_suit_and_states_why(suite: Suite, tmp_path: Path) -> None:
    assert methods(suite) == ["alone", "two"]
    (line,) = left_out(suite)
    assert line.startswith("left out on tiny-r1: colourful (needs the colours of the hsi: ")
    assert "rgb_bands: [red, green, blue]" in line
    content = yaml.safe_load(Path(suite.datasets[0]).read_text())
    content["modalities"][0]["rgb_bands"] = [2, 1, 0]
    coloured = write_manifest(tmp_path, "coloured", modalities=content["modalities"])
    assert methods(replace(suite, datasets=(coloured,))) == ["alone", "colourful", "two"]
    assert left_out(replace(suite, datasets=(coloured,))) == []
    assert methods(replace(suite, datasets=(coloured,), modalities=("hsi",))) == ["alone", "colourful"]
    assert methods(replace(suite, datasets=(coloured,), modalities=("lidar",))) == ["alone"]


def test_a_named_method_is_refused_before_a_run(suite: Suite, tmp_path: Path) -> None:
    named = replace(suite, methods=("all", "two"), modalities=("hsi",))
    assert methods(named) == ["alone", "two"]
    with pytest.raises(PreflightError) as found:
        preflight(build_cells(named), tmp_path / "results", ExecutionConfig(device="cpu"))
    (fault,) = found.value.faults
    assert fault == "two on tiny-r1: needs a second modality beside hsi, unlike two:one; choose other --methods"
    variant = replace(named, methods=("two:one",))
    preflight(build_cells(variant), tmp_path / "results", ExecutionConfig(device="cpu"))


def test_what_a_card_states_of_scenes_changes_no_key(tmp_path: Path) -> None:
    hashes = []
    for number, needs in enumerate((["hsi"], [])):
        path = tmp_path / str(number) / "mine.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump({"extends": "rf", "name": "mine", "needs_scene": needs}))
        hashes.append(file_hashes({}, method_card(str(path)), str(path))["card"])
    assert hashes[0] == hashes[1]


def test_shipped_methods_suit_the_simulated_scene_and_most_suit_one_modality() -> None:
    manifest = load_manifest("simulated")
    found = {card.name for card in method_cards().values() if not unmet_need(card, "default", manifest, ("hsi",))}
    assert all(unmet_need(card, "default", manifest) == "" for card in method_cards().values())
    assert {"rf-spatial", "cnn", "diffclip", "unidiff-tiny", "lds2ae"} <= found
    assert found.isdisjoint({"hct", "mft", "mivit", "msfmamba", "s2enet", "coupled-cnn", "bdgf", "bdgf-probe"})
    assert unmet_need(method_card("bdgf-cnn"), "mask-none", manifest, ("hsi",)) == ""


def test_unidiff_needs_an_hsi_only_for_its_anchor_and_colours_only_with_an_hsi(tmp_path: Path) -> None:
    card, coloured, plain = method_card("unidiff"), load_manifest("simulated"), load_manifest(write_manifest(tmp_path))
    for variant, without_hsi in (("default", "needs an hsi"), ("no-anchor", ""), ("unadapted", "")):
        assert unmet_need(card, variant, coloured) == ""
        assert unmet_need(card, variant, coloured, ("lidar",)).startswith(without_hsi)
        assert bool(unmet_need(card, variant, coloured, ("lidar",))) == bool(without_hsi)
        assert unmet_need(card, variant, plain).startswith("needs the colours of the hsi")
