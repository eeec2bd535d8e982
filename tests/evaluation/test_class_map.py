"""Class maps of cells: trained here, or by the models that a run saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.stored_scene import store_scene

from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import DataError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.class_map import classify_scene, map_name
from mmrs_bench.evaluation.results.models import model_folder
from mmrs_bench.evaluation.run.runner import run_and_save

METHODS = ("rf", "nearest-prototype")


class Stages(list[str]):
    """Remembers the stages of a progress."""

    def __call__(self, stage: str, done: float) -> None:
        if done == 0.0:
            self.append(stage)


def cells_of(manifest: Path, *methods: str, **options: object) -> list[Cell]:
    values = {"datasets": (str(manifest),), "methods": methods, "draws": 1, "budget": "smoke", **options}
    return build_cells(Suite.of(values))


def test_a_sheet_has_the_maps_of_all_methods_on_one_split(tmp_path: Path) -> None:
    cells = cells_of(store_scene(tmp_path / "scene"), *METHODS)
    sheet = classify_scene(cells, ExecutionConfig(), tmp_path / "results", Stages())
    assert [shown.label for shown in sheet.maps] == [*METHODS]
    assert [shown.confidence is None for shown in sheet.maps] == [False, True]
    assert sheet.title == "random-v1, 2 shots, draw 0, budget smoke"
    assert sheet.support is not None
    assert np.intersect1d(sheet.scored, sheet.support).size == 0
    assert sheet.scored.size + sheet.support.size == sheet.scene.labelled_pixels.size


def test_a_saved_model_is_not_trained_again_and_gives_the_same_map(tmp_path: Path) -> None:
    cells, results = cells_of(store_scene(tmp_path / "scene"), *METHODS), tmp_path / "results"
    trained = classify_scene(cells, ExecutionConfig(), results, Stages())
    record = run_and_save(cells[0], ExecutionConfig(), results, Stages())
    stages = Stages()
    loaded = classify_scene(cells, ExecutionConfig(), results, stages)
    assert "rf: load its model" in stages
    assert "rf: train" not in stages
    assert "nearest-prototype: train" in stages
    for one, other in zip(trained.maps, loaded.maps, strict=True):
        np.testing.assert_array_equal(one.targets, other.targets)
    np.testing.assert_array_equal(trained.maps[0].confidence, loaded.maps[0].confidence)
    # The scores of the record are those of the map.
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (loaded.scene.labels[loaded.scored] - 1, loaded.maps[0].targets[loaded.scored]), 1)
    assert confusion.tolist() == [list(row) for row in record.confusion]
    model = model_folder(results, cells[0].protocol)
    (model / "arrays.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged or was changed"):
        classify_scene(cells, ExecutionConfig(), results, Stages())


def test_names_of_files_are_short_and_those_of_other_cells_differ(tmp_path: Path) -> None:
    manifest = store_scene(tmp_path / "scene")
    one, other = cells_of(manifest, "rf", "bdgf:independent")
    assert map_name([one]) == f"stored-rf-{one.key[:8]}"
    assert map_name([other]).startswith("stored-bdgf-independent-")
    assert map_name([one, other]).startswith("stored-2-methods-")
    assert map_name([one, other]) != map_name(cells_of(manifest, "rf", "bdgf"))
    assert map_name([one]) != map_name(cells_of(manifest, "rf", shots=(5,)))


def test_one_command_draws_several_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rasterio", reason="the extra geo is not installed")
    manifest, results = store_scene(tmp_path / "scene"), tmp_path / "results"
    options = ("--dataset", manifest, "--budget", "smoke", "--methods", *METHODS, "--results", results, "--tif")
    assert main(["map", *map(str, options)]) == 0
    shown = capsys.readouterr()
    written = [Path(line) for line in shown.out.splitlines()]
    assert [path.suffix for path in written] == [".png", ".tif", ".qml", ".tif", ".qml"]
    assert all(path.is_file() and len(path.name) < 50 for path in written)
    assert {path.parent for path in written} == {results / "maps"}
    # The colours of this scene are three blacks, and its files have no coordinates.
    assert f"colours of {manifest}: Grass (#000001) and Trees (#000002) differ by " in shown.err
    assert "the files of stored-r1 have no coordinates, so a GeoTIFF of its map has none" in shown.err
