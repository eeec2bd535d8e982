"""Sweeps over timestep and block: results, resumption, refused options, table and figure."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers.fake_suite import UnsavedMethod, fake_cards, fake_scene
from helpers.synthetic_records import make_record
from helpers.tiny import striped_map, tiny_scene
from pydantic import Field

from mmrs_bench.cli import main
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError, RecordError, TrainingError
from mmrs_bench.evaluation.cells import Cell, Suite, build_cells
from mmrs_bench.evaluation.report.tables import Estimate
from mmrs_bench.evaluation.results.records import load_records, record_path, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.sweep import NOTE, run_sweep, sweep_cells, sweep_figure, sweep_path, sweep_table, write_rows
from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.scenes.scene import IntArray

TRUTH = striped_map(48, 60)


class NoisyConfig(MethodConfig):
    timestep: int = Field(default=0, ge=0, lt=1000)
    block: int = 0


class Noisy(UnsavedMethod):
    """Misclassifies a number of pixels that depends on timestep, block and draw (see `wrong`); logs each fit."""

    Config = NoisyConfig
    fits: ClassVar[list[tuple[int, int, int]]] = []
    #: Called at the end of each fit.
    event: ClassVar[Callable[[], None]] = lambda: None

    def fit(self, data: Any) -> None:
        self.fits.append((self.context.draw, self.config.block, self.config.timestep))
        type(self).event()

    def predict(self, data: Any, pixels: IntArray) -> IntArray:
        np.testing.assert_array_equal(pixels, data.query)
        targets = data.query_targets.copy()
        count = wrong(self.context.draw, self.config.block, self.config.timestep)
        targets[:count] = (targets[:count] + 1) % data.num_classes
        return targets


class Plain(Noisy):
    """Has no setting ``timestep``."""

    class Config(MethodConfig):
        block: int = 0


def wrong(draw: int, block: int, timestep: int) -> int:
    return 100 + timestep + 7 * block + 31 * draw * draw


@pytest.fixture(autouse=True)
def _suite_of_two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cards = [
        {"name": name, "class_path": f"{__name__}:{name.capitalize()}", "config": config, "variants": {"other": {}}}
        for name, config in (("noisy", {"timestep": 0, "block": 0}), ("plain", {"block": 0}))
    ]
    Noisy.fits.clear()
    monkeypatch.setattr(Noisy, "event", lambda: None)
    with (
        fake_cards(tmp_path / "cards", monkeypatch, *cards),
        fake_scene(tiny_scene(TRUTH), tmp_path / "tiny.yaml", monkeypatch),
    ):
        yield


def suite(tmp_path: Path, **options: Any) -> Suite:
    return replace(Suite(datasets=(str(tmp_path / "tiny.yaml"),), methods=("noisy",), draws=3, window=5), **options)


def cells(
    tmp_path: Path, timesteps: tuple[int, ...] = (0, 100), blocks: tuple[int, ...] = (4, 5), **options: Any
) -> list[Cell]:
    return sweep_cells(suite(tmp_path, **options), timesteps, blocks)


def run(tmp_path: Path, points: list[Cell]) -> dict[str, Record]:
    return run_sweep(points, tmp_path / "out", ExecutionConfig(), lambda *stage: None)


def point(record: Record) -> tuple[int, int, int]:
    settings = record.protocol.method_config
    return record.protocol.data.draw, settings["block"], settings["timestep"]


def at(block: int, timestep: int) -> list[tuple[int, int, int]]:
    return [(draw, block, timestep) for draw in range(3)]


def test_every_point_is_a_cell_with_its_own_key(tmp_path: Path) -> None:
    points = cells(tmp_path, timesteps=(100, 0, 100), blocks=(5, 4))
    settings = [(c.protocol.data.draw, *(c.protocol.method_config[n] for n in ("block", "timestep"))) for c in points]
    assert settings == [(draw, block, timestep) for draw in range(3) for block in (4, 5) for timestep in (0, 100)]
    assert len({cell.key for cell in points}) == 12
    (default,) = build_cells(suite(tmp_path, draws=1))
    assert cells(tmp_path, (0,), (0,), draws=1)[0].key == default.key, "the default point is the ordinary cell"


def test_table_and_figure_show_mean_and_sd_over_draws(tmp_path: Path) -> None:
    points = cells(tmp_path)
    rows = run(tmp_path, points)
    n = int((TRUTH > 0).sum()) - 8
    assert {point(record): record.scores.oa for record in rows.values()} == {
        (d, b, t): pytest.approx(1 - wrong(d, b, t) / n) for d in range(3) for b in (4, 5) for t in (0, 100)
    }
    table = sweep_table(points, rows)
    assert table.title.startswith("SIMULATED: Tiny scene of a test, noisy, random-v1, 2-shot")
    assert NOTE in table.notes[0]
    assert "draws:3" in table.card[0][1]
    figure = sweep_figure(points, rows)
    assert figure.get_suptitle().startswith(
        "SIMULATED: Tiny scene of a test\nnoisy, random-v1, 2-shot, budget quick; mean"
    )
    assert NOTE in figure.get_supxlabel()
    for block, section, drawn in zip((4, 5), table.sections, figure.axes[0].containers, strict=True):
        assert drawn.get_label() == f"block {block}"
        line, _, (bars,) = drawn.lines
        for line_number, (timestep, shown) in enumerate(zip((0, 100), section.rows, strict=True)):
            of_draws = [100 * (1 - wrong(draw, block, timestep) / n) for draw in range(3)]
            assert (shown["block"], shown["timestep"], shown["draws"]) == (block, timestep, 3)
            for name in ("oa", "aa", "kappa"):
                estimate = shown[name]
                assert isinstance(estimate, Estimate)
                found = [100 * getattr(r.scores, name) for r in rows.values() if point(r)[1:] == (block, timestep)]
                assert estimate[:2] == pytest.approx((np.mean(found), np.std(found, ddof=1)))
            assert line.get_ydata()[line_number] == pytest.approx(np.mean(of_draws))
            assert line.get_xdata()[line_number] == pytest.approx(timestep, abs=1)
            low, high = bars.get_segments()[line_number][:, 1]
            assert (high - low) / 2 == pytest.approx(np.std(of_draws, ddof=1))


def test_one_draw_has_no_spread(tmp_path: Path) -> None:
    points = cells(tmp_path, (100,), (4,), draws=1)
    rows = run(tmp_path, points)
    (line,) = sweep_table(points, rows).sections[0].rows
    assert isinstance(line["oa"], Estimate)
    assert line["oa"].sd is None
    assert sweep_figure(points, rows).get_suptitle().endswith("; one draw")


def test_points_with_a_record_are_not_computed_again(tmp_path: Path) -> None:
    points = cells(tmp_path)
    rows = run(tmp_path, points)
    assert len(Noisy.fits) == 12
    assert run(tmp_path, points) == rows
    assert len(Noisy.fits) == 12
    assert all(record.unranked == NOTE for record in rows.values())

    Noisy.fits.clear()
    run(tmp_path, cells(tmp_path, (0, 50, 100), (5,)))
    assert Noisy.fits == at(5, 50)

    Noisy.fits.clear()
    other = run(tmp_path, cells(tmp_path, (0,), (4,), shots=(3,)))
    assert Noisy.fits == at(4, 0), "other shots are another point"
    assert other.keys().isdisjoint(rows)
    assert len(load_records(tmp_path / "out")) == 12 + 3 + 3


def test_file_names_tell_variants_and_protocols_apart(tmp_path: Path) -> None:
    path = sweep_path(cells(tmp_path, methods=("noisy:other",)), tmp_path)
    assert path.name == "sweep-tiny-r1-noisy_other-random-v1-2shot-5-scene-quick-v0_1_0.csv"
    changes: list[dict[str, Any]] = [{}, {"shots": (3,)}, {"seeds": (1,)}, {"modalities": ("hsi",)}, {"drop": ("hsi",)}]
    others = [sweep_path(cells(tmp_path, **change), tmp_path) for change in changes]
    assert len({path, *others}) == 6


def test_a_results_folder_is_refused(tmp_path: Path) -> None:
    save_record(tmp_path / "out", make_record())
    with pytest.raises(ConfigError, match="contains results of runs"):
        run(tmp_path, cells(tmp_path))


@pytest.mark.parametrize("stop", [TrainingError("the loss is NaN"), KeyboardInterrupt()])
def test_a_stopped_sweep_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException) -> None:
    def stop_at_the_third() -> None:
        if len(Noisy.fits) == 3:
            raise stop

    monkeypatch.setattr(Noisy, "event", stop_at_the_third)
    points = cells(tmp_path)
    with pytest.raises(type(stop)):
        run(tmp_path, points)
    assert sorted(map(point, load_records(tmp_path / "out"))) == [(0, 4, 0), (0, 4, 100)]
    rows = run(tmp_path, points)
    assert Noisy.fits[2] == Noisy.fits[3] == (0, 5, 0)
    assert len(Noisy.fits) == 13
    assert list(rows) == [cell.key for cell in points]


def test_simultaneous_sweeps_compute_a_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = cells(tmp_path, (0,), (4,), draws=1)
    found: list[dict[str, Record]] = []
    another = Thread(target=lambda: found.append(run(tmp_path, points)))

    def another_sweep_begins() -> None:
        monkeypatch.setattr(Noisy, "event", lambda: None)
        another.start()
        another.join(0.5)

    monkeypatch.setattr(Noisy, "event", another_sweep_begins)
    rows = run(tmp_path, points)
    another.join()
    assert (found, len(Noisy.fits)) == ([rows], 1)


@pytest.mark.parametrize("options", [{"shots": (2, 3)}, {"methods": ("noisy", "plain")}, {"seeds": (0, 1)}])
def test_several_curves_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="describe 2 combinations; give one --dataset"):
        cells(tmp_path, **options)


def test_invalid_settings_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    points = cells(tmp_path, timesteps=(0, 1000))
    with pytest.raises(ConfigError, match=r"timestep: .*less than 1000 \(found 1000\)"):
        run(tmp_path, points)
    assert Noisy.fits == []


def test_a_damaged_record_is_refused_and_kept(tmp_path: Path) -> None:
    points = cells(tmp_path, (0, 100), (4,), draws=1)
    run(tmp_path, points)
    path = record_path(tmp_path / "out", points[0].protocol)
    path.write_text(path.read_text()[:100])
    damaged = path.read_bytes()
    Noisy.fits.clear()
    with pytest.raises(RecordError, match=rf"^{re.escape(str(path))}: is not valid JSON"):
        run(tmp_path, points)
    assert (Noisy.fits, path.read_bytes()) == ([], damaged)


def test_an_undefined_kappa_is_empty_in_the_file_and_not_part_of_the_mean(tmp_path: Path) -> None:
    points = cells(tmp_path, (0,), (4,))
    rows = run(tmp_path, points)
    first = rows[points[0].key]
    rows[first.key] = first.model_copy(update={"scores": first.scores.model_copy(update={"kappa": None})})
    (line,) = sweep_table(points, rows).sections[0].rows
    assert isinstance(line["kappa"], Estimate)
    defined = [100 * r.scores.kappa for r in rows.values() if r.scores.kappa is not None]
    assert len(defined) == 2
    assert line["kappa"].mean == pytest.approx(np.mean(defined))
    write_rows(points, rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        assert [row["kappa"] == "" for row in csv.DictReader(file)] == [True, False, False]


def command(tmp_path: Path, *more: str) -> list[str]:
    given = ["--dataset", str(tmp_path / "tiny.yaml"), "--method", "noisy", "--out", str(tmp_path / "out")]
    return ["sweep", *given, "--window", "5", "--draws", "2", *more]


def test_the_command_prints_the_table_and_writes_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command(tmp_path, "--timesteps", "0", "100", "--blocks", "4")
    assert main(arguments) == 0
    shown = capsys.readouterr()
    stem = tmp_path / "out" / "sweep-tiny-r1-noisy-random-v1-2shot-5-scene-quick-v0_1_0"
    assert shown.out.splitlines()[-2:] == [f"{stem}.csv", f"{stem}.png"]
    assert shown.out.startswith("SIMULATED: Tiny scene of a test")
    assert NOTE in " ".join(shown.out.split())
    assert "1/4 block 4, timestep 0, draw 0: fit" in shown.err.splitlines()
    assert (stem.parent / f"{stem.name}.png").read_bytes().startswith(b"\x89PNG")
    with (stem.parent / f"{stem.name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [("0", "True", NOTE), ("100", "True", NOTE)]
    assert [(row["timestep"], row["simulated"], row["note"]) for row in rows[:2]] == expected
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert (again.out, again.err.strip()) == (shown.out, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--timesteps", "0"], "blocks"),
        (["--timesteps", "zero", "--blocks", "4"], "--timesteps: Expected a int"),
        (["--timesteps", "0", "--blocks", "4", "--method", "plain"], "has no setting timestep"),
        (["--timesteps", "0", "--blocks", "4", "--out", "tiny.yaml/out"], "cannot write tiny.yaml/out"),
    ],
)
def test_wrong_options_give_one_line(
    tmp_path: Path, arguments: list[str], message: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*command(tmp_path, *arguments))
