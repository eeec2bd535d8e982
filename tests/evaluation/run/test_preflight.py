"""Checks before any worker starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.clip_helpers import text_file
from helpers.fake_suite import fake_cards, write_manifest

from mmrs_bench import plugins
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import PreflightError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.run import preflight as module
from mmrs_bench.evaluation.run.preflight import notes_of, preflight
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.models.weights import weights_named
from mmrs_bench.plugins import install_command

CPU = ExecutionConfig()


def cells_of(*methods: str, draws: int = 1) -> list[Cell]:
    return build_cells(Suite(methods=methods, draws=draws, budget="smoke"))


def faults(cells: list[Cell], results: Path, execution: ExecutionConfig = CPU, **options: object) -> tuple[str, ...]:
    with pytest.raises(PreflightError) as caught:
        preflight(cells, results, execution, **options)  # type: ignore[arg-type]
    assert all("\n" not in fault for fault in caught.value.faults)
    return caught.value.faults


def test_nothing_is_written_if_all_is_well(tmp_path: Path) -> None:
    preflight(cells_of("majority", "diffclip"), tmp_path / "results", CPU)
    assert list(tmp_path.iterdir()) == []


def test_all_faults_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").write_text("a file")
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    found = faults(cells_of("unidiff", "clip-image", draws=3), tmp_path / "results", executor="slurm")
    folder, package, *weights = found
    assert "is not a folder; choose another folder" in folder
    assert package == f"the package submitit is not installed; install it with: {install_command('slurm')}"
    assert [line.split(": ")[0] for line in weights] == ["unidiff", "clip-image"]


@pytest.mark.parametrize(
    ("method", "weights"),
    [("unidiff", "adm-imagenet-64"), ("clip-image", "clip-vit-b-32"), ("clip:clip-text", "clip-vit-b-32")],
)
def test_missing_weights_are_reported_with_the_command_that_fetches_them(
    method: str, weights: str, tmp_path: Path
) -> None:
    (line,) = faults(cells_of(method, draws=2), tmp_path)
    assert line.startswith(f"{method}: ")
    assert f"Fetch it with: mmrs-bench weights fetch {weights}" in line
    path = weights_named(weights).path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    preflight(cells_of(method), tmp_path, CPU)


def test_weights_in_the_hugging_face_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def cached(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    preflight(cells_of("clip-image"), tmp_path, CPU)
    assert set(asked) == {("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")}


def card_with(text: str, folder: Path) -> Path:
    card = folder / "mine.yaml"
    card.write_text(yaml.safe_dump({"extends": "clip", "name": "mine", "config": {"text": text}}))
    return card


@pytest.mark.parametrize("tower", ["open_clip:ViT-B-32-quickgelu/mine.pt", "precomputed:vectors.yaml"])
def test_files_that_settings_name_are_looked_for_beside_the_card(tower: str, tmp_path: Path) -> None:
    card = card_with(tower, tmp_path)
    (line,) = faults(cells_of(str(card)), tmp_path)
    path = tmp_path / tower.replace("/", ":").split(":")[-1]
    assert f"there is no file {path} (setting text of mine)" in line
    path.write_bytes(b"")
    if tower.startswith("open_clip"):
        preflight(cells_of(str(card)), tmp_path, CPU)
    else:
        (line,) = faults(cells_of(str(card)), tmp_path)
        assert f"{path}: " in line
        assert line.endswith("use a file with the fields vectors, names, classes")


def test_names_of_class_vectors_are_checked_and_shown_before_a_run(tmp_path: Path) -> None:
    near = {"Stressed grass": "grass", "Woodland": "woodland", "Vineyard": "vineyards", "Bare soil": "soil"}
    near |= {"Road": "road", "Parking lot": "parking", "Flat roof": "roof", "Tile roof": "tile roof", "Water": "water"}
    listed = ["lake", *near.values()]
    tower = text_file(tmp_path, {"Meadow": "lake"}, listed=listed, array=np.ones((len(listed), 2)))
    cells = cells_of(str(card_with(tower, tmp_path)), draws=2)
    preflight(cells, tmp_path, CPU)
    (line,) = notes_of(cells).lines
    start, _, text = line.partition(": text: ")
    assert start == "mine on simulated-r1: class texts by near names of names.json"
    assert yaml.safe_load(text) == {name: [word] for name, word in near.items()}
    text_file(tmp_path, {"Meadow": "lake"}, listed=["lake", *"abcdefghi"], array=np.ones((len(listed), 2)))
    cells = cells_of(str(tmp_path / "mine.yaml"))
    assert notes_of(cells).lines == []
    (line,) = faults(cells, tmp_path)
    assert line.startswith(f"mine on simulated-r1: {tmp_path / 'text.yaml'}: no vector for 'Stressed grass', ")


@pytest.mark.parametrize(
    ("tower", "advice"),
    [
        ("ViT-B-32/laion400m_e31", "Fetch it with: python -c "),
        ("ViT-B-32/laion40m", "did you mean laion400m_e31"),
        ("ViT-B-23/openai", "did you mean ViT-B-32"),
    ],
)
def test_towers_that_are_not_in_the_list_of_weights_are_looked_for(tower: str, advice: str, tmp_path: Path) -> None:
    (line,) = faults(cells_of(str(card_with(f"open_clip:{tower}", tmp_path)), draws=2), tmp_path)
    assert line.startswith("mine: ")
    assert advice in line


def test_finished_cells_need_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_done", lambda results, cell, save_models: True)
    preflight(cells_of("unidiff"), tmp_path, CPU)
    assert faults(cells_of("unidiff"), tmp_path, force=True)


def test_the_device_is_checked_where_the_workers_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cuda = ExecutionConfig(device="cuda")
    (line,) = faults(cells_of("majority"), tmp_path, cuda)
    assert line.startswith("--device cuda: torch ")
    monkeypatch.setattr(plugins, "find_spec", lambda name: object())
    preflight(cells_of("majority"), tmp_path, cuda, executor="slurm")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder read-only; also for root, whom the system lets write everywhere."""
    folders: set[str] = set()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in folders)
    return lambda folder: folders.add(str(folder))


def test_unwritable_folders_are_named_with_what_to_do(tmp_path: Path, locked: Callable[[Path], None]) -> None:
    cache = tmp_path / "cache-root"
    (tmp_path / "results" / "records").mkdir(parents=True)
    cache.mkdir()
    locked(tmp_path / "results" / "records")
    locked(cache)
    records, of_cache = faults(cells_of("diffclip"), tmp_path / "results")
    assert f"cannot write {tmp_path / 'results' / 'records'}: " in records
    assert "set MMRS_BENCH_CACHE to a writable folder" in of_cache
    (maps,) = faults(cells_of("majority"), tmp_path / "other", folders=[cache / "maps"])
    assert "--out" in maps


def test_methods_that_pretrain_nothing_do_not_need_the_cache(tmp_path: Path, locked: Callable[[Path], None]) -> None:
    (tmp_path / "cache-root").mkdir()
    locked(tmp_path / "cache-root")
    preflight(cells_of("rf", "svm"), tmp_path, CPU)


def test_packages_that_an_option_needs_are_named_with_their_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    (line,) = faults(cells_of("majority"), tmp_path, packages=["rasterio"])
    assert line == f"the package rasterio is not installed; install it with: {install_command('geo')}"


def test_a_method_of_others_with_unknown_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cards(tmp_path / "cards", monkeypatch, {"name": "alpha", "needs_weights": ["clip-vit-b-23"]}):
        suite = replace(Suite(methods=("alpha",), draws=1), datasets=(write_manifest(tmp_path),))
        with pytest.raises(Exception, match="did you mean clip-vit-b-32"):
            preflight(build_cells(suite), tmp_path, CPU)
    method_cards.cache_clear()
