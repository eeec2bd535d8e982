"""The leaderboard: rankings, notes, and the files of a results folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from helpers.synthetic_records import REPORTED, fixed_set, fixed_tables, make_failure, make_record, values, varied_hits

from mmrs_bench.api.results import load_results
from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.report.comparison import compare
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.exports import classes_table, draws_table
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard, write_leaderboard
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.tables import Table
from mmrs_bench.evaluation.results.metrics import METRICS, Metric
from mmrs_bench.evaluation.results.records import save_failure, save_record


@pytest.mark.parametrize("fmt", ["csv", "md"])
def test_tables_do_not_depend_on_the_order_of_the_records(fmt: str) -> None:
    records, failures = fixed_set()
    assert render(build_leaderboard(records[::-1], failures[::-1], REPORTED), fmt) == render(fixed_tables(), fmt)


def test_a_note_states_that_seeds_were_averaged() -> None:
    (table,) = build_leaderboard([make_record(seed=seed) for seed in range(2)])
    assert any("mean over its seeds" in note for note in table.notes)


def test_notes_of_records_stand_below_their_table_once() -> None:
    records = [make_record(method, draw=draw) for method in ("rf", "svm") for draw in range(2)]
    noted = [record.model_copy(update={"notes": ("texts: {Road: [road]}",)}) for record in records[:2]]
    (table,) = build_leaderboard([*noted, *records[2:]])
    assert table.notes[0] == "rf: texts: {Road: [road]}."
    assert sum("Road" in note for note in table.notes) == 1
    assert noted[0].body()["notes"] == ["texts: {Road: [road]}"]
    assert "notes" not in records[2].body(), "records without notes are those of earlier versions"


def test_failed_cells_are_listed_even_if_all_cells_failed() -> None:
    (table,) = build_leaderboard([], [make_failure("cnn", "no memory", draw=draw) for draw in (3, 1)])
    assert table.notes == ("Failed: cnn, draws 1, 3: TrainingError: no memory",)
    assert "no memory" in render([table], "terminal")


@pytest.mark.parametrize(("methods", "draws"), [(2, 5), (4, 6)])
def test_with_too_few_draws_a_table_shows_no_groups_and_states_how_many_it_takes(methods: int, draws: int) -> None:
    def ranking(draws: int) -> Table:
        records = [
            make_record(f"m{m}", varied_hits(190 - 30 * m, d), draw=d) for d in range(draws) for m in range(methods)
        ]
        (table,) = build_leaderboard(records)
        return table

    few, enough = ranking(draws), ranking(draws + 1)
    assert values(few, "group") == [(None,)] * methods
    assert f"to separate {methods} methods takes at least {draws + 1} common draws" in few.notes[-1]
    assert f"these have {draws}." in few.notes[-1]
    assert "no groups" in dict(few.card)["score"]
    assert values(enough, "group") == [(rank,) for rank in range(1, methods + 1)]
    assert not any("No groups" in note for note in enough.notes)


def test_a_new_metric_needs_only_a_row_in_the_table_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = Metric("worst", "Worst", lambda counts: min(counts.correct) / 200)
    monkeypatch.setitem(METRICS, "worst", worst)
    records = [make_record(method, (190, 150, 90), draw=draw) for method in ("rf", "svm") for draw in range(2)]
    (ranking,) = build_leaderboard(records)
    assert "| κ % | Worst % |" in render([ranking], "md")
    for table, field in ((ranking, "worst_mean"), (draws_table(group_records(records)), "worst")):
        assert {row[field] for row in csv.DictReader(io.StringIO(render([table], "csv")))} == {"45.0"}
    (comparison,) = compare(records, "rf", "svm")
    assert values(comparison, "metric", "a")[-1] == ("Worst", 45.0)


def test_notes_state_what_means_and_groups_are_over() -> None:
    one_class = [[10, 0, 0], [0, 0, 0], [0, 0, 0]]
    records = [make_record("rf", varied_hits(150, draw), draw=draw) for draw in range(8)]
    records += [make_record("svm", varied_hits(90, draw), draw=draw) for draw in range(8)]
    records += [make_record("knn", draw=8), make_record("knn", draw=9, confusion=one_class)]
    (ranking,) = [table for table in build_leaderboard(records) if table.in_csv]
    assert dict(values(ranking, "label", "group")) == {"knn": None, "rf": 1, "svm": 2}
    notes = " ".join(ranking.notes)
    assert "Methods have 2 to 8 draws: their means are not over the same draws" in notes
    assert "κ is undefined in draws of knn (1 of 2), which its means leave out." in notes
    assert "No group, because a test takes 6 common draws: knn." in notes
    assert "draws 2-8 " in dict(ranking.card)["protocol"]
    disjoint = [make_record("rf", draw=0), make_record("svm", draw=1)]
    assert "Methods' means are not over the same draws" in " ".join(build_leaderboard(disjoint)[0].notes)


def test_recall_by_class_is_over_draws_and_names_protocol_and_entry() -> None:
    seeds = [make_record(hits=(200, 0, 0), draw=0, seed=seed) for seed in range(5)]
    groups = group_records([*seeds, make_record(hits=(100, 0, 0), draw=1), make_record(drop=("lidar",))])
    rows = [row for row in classes_table(groups).rows if row["class_id"] == 1]
    assert [(row["label"], row["recall"], row["records"]) for row in rows] == [("rf", 90.0, 1), ("rf", 75.0, 6)]
    assert ["drop:lidar" in str(row["signature"]) for row in rows] == [True, False]


def csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def write_files(results: Path) -> list[Path]:
    found = load_results(results)
    return write_leaderboard(results, found.leaderboard().tables, group_records(found.records, found.failures))


def test_write_leaderboard_writes_tables_data_and_curves(tmp_path: Path) -> None:
    records, failures = fixed_set()
    for record in records:
        save_record(tmp_path, record)
    save_failure(tmp_path, failures[0].protocol, ValueError("no convergence"))
    files = write_files(tmp_path)
    folder, stem = tmp_path / "leaderboard", "curves-trento-r1_abababab-random-v1-11-scene-paper-v0_1_0"
    names = {"draws.csv", "classes.csv", "paper.tex", "paper-figures.tex"}
    names |= {f"leaderboard.{fmt}" for fmt in ("md", "csv", "tex", "html")}
    names |= {f"{stem}.{fmt}" for fmt in ("csv", "png", "pdf")}
    assert {path.name for path in files} == {path.name for path in folder.iterdir()} == names
    assert all(path.stat().st_size > 100 for path in files)
    by_key = {row["key"]: row for row in csv_rows(folder / "draws.csv")}
    assert by_key.keys() == {record.key for record in records}
    assert all(float(by_key[r.key]["oa"]) == pytest.approx(100 * r.scores.oa) for r in records)
    assert {row["class_name"] for row in csv_rows(folder / "classes.csv")} == set(records[0].class_names)
    assert {(row["label"], row["shots"]) for row in csv_rows(folder / f"{stem}.csv")} == {
        (label, shots) for label in ("rf-spatial", "svm", "cnn [last]", "majority") for shots in ("2", "5")
    }
    before = {path: path.read_bytes() for path in files}
    write_files(tmp_path)
    assert {path: path.read_bytes() for path in files} == before


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    assert build_leaderboard([]) == []
    with pytest.raises(RecordError, match="contains no records; give another folder"):
        load_results(tmp_path)


def test_own_seconds_and_those_of_the_shared_pretraining_are_apart() -> None:
    """The cell that trained and those that read the cache state the same pretraining; waiting for it counts nowhere."""
    shared = {"entry": 40.0}
    records = [make_record("bdgf", draw=draw, seconds=2.0 + draw, pretraining=shared) for draw in range(3)]
    older = [make_record("cnn", draw=draw, seconds=7.0) for draw in range(3)]
    unknown = [make_record("clip", draw=draw, seconds=5.0, pretraining={"entry": None}) for draw in range(3)]
    (table,) = build_leaderboard([*records, *older, *unknown])
    rows = {row["method"]: (row["seconds"], row["pretraining_seconds"]) for row in table.rows}
    assert rows == {"bdgf": (3.0, 40.0), "cnn": (7.0, None), "clip": (5.0, None)}
    assert "Pretrain" in [column.title for column in table.shown]
    (table,) = build_leaderboard(older)
    assert "Pretrain" not in [column.title for column in table.shown]
