"""Collected records: small, restored exactly, and refused if anything was edited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_records import fixed_set, make_record

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.collect import collect
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.results import collected as module
from mmrs_bench.evaluation.results.records import load_collected, load_records, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.io import write_json

OUT = "collected"


def saved(folder: Path, *records: Record) -> Path:
    for record in records:
        save_record(folder, record)
    return folder


def collected(tmp_path: Path, *records: Record) -> Path:
    """The file of some records."""
    (written,) = collect([saved(tmp_path / "results", *records)], tmp_path / OUT)
    return written.path


def test_every_record_is_restored_exactly_and_gives_the_same_tables(tmp_path: Path) -> None:
    records, _ = fixed_set()
    written = collect([saved(tmp_path / "results", *records)], tmp_path / OUT)
    assert [file.path.name for file in written] == ["simulated-r1-quick.cells.json", "trento-r1-paper.cells.json"]
    found = load_records(tmp_path / OUT)
    assert {record.key: record for record in found} == {record.key: record for record in records}
    assert render(build_leaderboard(found), "md") == render(build_leaderboard(records), "md")


def test_a_cell_takes_less_than_a_fifth_of_its_record_file(tmp_path: Path) -> None:
    records = [make_record(method, draw=draw) for method in ("rf", "svm", "cnn") for draw in range(20)]
    path = collected(tmp_path, *records)
    assert 5 * path.stat().st_size < sum(file.stat().st_size for file in (tmp_path / "results").rglob("*.json"))


def test_the_same_records_give_the_same_bytes_and_more_records_change_no_line_of_others(tmp_path: Path) -> None:
    records = [make_record(draw=draw) for draw in (0, 2, 4)]
    path = collected(tmp_path, *records)
    before = path.read_text()
    assert collect([tmp_path / "results"], tmp_path / OUT) == []
    (written,) = collect([saved(tmp_path / "more", make_record(draw=1), make_record("svm", draw=3))], tmp_path / OUT)
    assert (written.cells, written.new) == (5, 2)
    lines = {line.rstrip(",") for line in path.read_text().splitlines()}
    assert {line.rstrip(",") for line in before.splitlines()} - lines == {before.splitlines()[1].rstrip(",")}
    save_all = saved(tmp_path / "all", *reversed(records), make_record("svm", draw=3), make_record(draw=1))
    (again,) = collect([save_all], tmp_path / "again")
    assert again.path.read_bytes() == path.read_bytes()


Edit = Callable[[dict[str, Any]], object]


def first_shared(content: dict[str, Any], part: str) -> Any:
    return next(iter(content["shared"][part].values()))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c["cells"][1]["confusion"][0].reverse(),
            r"cell 2 \(rf, random-v1, shots 2, draw 1, seed 0\) was edited",
        ),
        (lambda c: c["cells"][2].update(draw=7), r"cell 3 \(rf, random-v1, shots 2, draw 7, seed 0\) was edited"),
        (lambda c: c["cells"][0]["measured"].update(peak_memory_mib=1.0), r"cell 1 \(rf.* was edited"),
        (lambda c: c["cells"][0].update(sha256="0" * 16), r"cell 1 \(rf.* was edited"),
        (lambda c: c["cells"][0].update(scores={"oa": 0.99}), r"cell 1 \(rf.* was edited"),
        (lambda c: c["cells"][1].pop("split"), "cell 2: is no cell of collected records"),
        (lambda c: c["cells"][1].update(protocol="x"), "cell 2: is no cell of collected records"),
        (lambda c: c["cells"][1].update(confusion=[[1, 2]]), "cell 2: confusion matrix has shape"),
        (lambda c: c["cells"][1].update(seed=-1), "cell 2: seed: Input should be greater"),
        (lambda c: c["cells"].pop(1), "cells were added, removed or put in another order"),
        (lambda c: c["cells"].reverse(), "cells were added, removed or put in another order"),
        (lambda c: c.update(sha256="0"), "cells were added, removed or put in another order"),
        (lambda c: first_shared(c, "scene").update(scene_title="City"), "the shared scene '[0-9a-f]{8}' was edited"),
        (lambda c: first_shared(c, "method").update(unranked=""), None),
        (lambda c: c.update(schema=2), "has schema 2, expected 1; update mmrs-bench"),
        (lambda c: c.pop("shared"), "shared is missing"),
    ],
)
def test_an_edited_file_is_refused_with_a_line_that_names_the_cell(
    edit: Edit, message: str | None, tmp_path: Path
) -> None:
    path = collected(tmp_path, *(make_record(draw=draw) for draw in range(3)))
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)
    if message is None:  # the same value
        assert len(load_records(tmp_path / OUT)) == 3
        return
    with pytest.raises(RecordError, match=message) as caught:
        load_records(tmp_path / OUT)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_forged_cell_with_new_checksums_is_checked_like_a_record(tmp_path: Path) -> None:
    path = collected(tmp_path, make_record())
    fields = make_record().model_dump(mode="json", by_alias=True)
    module.write_collected(path, [{**fields, "n_support": 7}])
    with pytest.raises(RecordError, match=r"cell 1 \(rf.*\): n_support is 7, but 2 shots of 3 classes are 6"):
        load_collected(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = collected(tmp_path, make_record())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RecordError, match="is not valid JSON"):
        load_records(tmp_path / OUT)


def test_records_that_are_older_than_a_metric_keep_their_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = collected(tmp_path, make_record())
    scores = module.score_values
    monkeypatch.setattr(module, "score_values", lambda confusion: {**scores(confusion), "new": 1.0})
    assert load_collected(path) == [make_record()]


def test_metrics_with_rounding_of_another_machine_are_kept(tmp_path: Path) -> None:
    record = make_record()
    rounded = record.model_copy(update={"scores": record.scores.model_copy(update={"oa": record.scores.oa + 1e-12})})
    assert load_collected(collected(tmp_path, rounded)) == [rounded]


def test_the_same_cell_twice_must_be_identical(tmp_path: Path) -> None:
    one, other = make_record(draw=1), make_record(draw=1, hits=(1, 2, 3))
    slower = make_record(draw=1, seconds=99.0)
    collected(tmp_path, one)
    assert collect([saved(tmp_path / "slower", slower)], tmp_path / OUT) == []
    message = (
        rf"two records of town-r1, rf, random-v1, shots 2, draw 1, seed 0 \(key {one.key}\) differ in confusion, scores"
    )
    with pytest.raises(RecordError, match=message):
        collect([saved(tmp_path / "other", other)], tmp_path / OUT)
    assert load_records(tmp_path / OUT) == [one]
    (written,) = collect([tmp_path / "other"], tmp_path / OUT, replace=True)
    assert (written.cells, written.new) == (1, 1)
    assert load_records(tmp_path / OUT) == [other]


def test_replace_drops_older_versions_of_the_same_cells_only(tmp_path: Path) -> None:
    old = [make_record(draw=draw) for draw in range(3)]
    collected(tmp_path, *old, make_record("svm", draw=0))
    new = make_record(draw=0, method_version=2)
    collect([saved(tmp_path / "new", new)], tmp_path / OUT, replace=True)
    kept = {(r.protocol.method, r.protocol.method_version, r.protocol.data.draw) for r in load_records(tmp_path / OUT)}
    assert kept == {("rf", 2, 0), ("rf", 1, 1), ("rf", 1, 2), ("svm", 1, 0)}


def test_a_folder_without_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="contains no records"):
        collect([tmp_path], tmp_path / OUT)


def test_the_command_line(tmp_path: Path, printed: Callable[..., str], refused: Callable[..., str]) -> None:
    results = saved(tmp_path / "results", make_record(draw=0), make_record(draw=1))
    text = printed("collect", results, "--out", tmp_path / OUT)
    assert "town-r1-paper.cells.json: 2 cells, 2 new or replaced;" in text
    assert "contains these records already" in printed("collect", results, "--out", tmp_path / OUT)
    assert "rf" in printed("leaderboard", "--results", tmp_path / OUT)
    line = refused("run", "--methods", "majority", "--draws", 1, "--results", tmp_path / OUT)
    assert "contains collected records (town-r1-paper.cells.json)" in line
