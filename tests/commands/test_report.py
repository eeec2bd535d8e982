"""``mmrs-bench report``: one page of one or more results folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.pages import data_in, rows_of
from helpers.synthetic_records import make_record

from mmrs_bench.cli import main
from mmrs_bench.evaluation.results.records import save_failure, save_record


def test_report_writes_the_results_of_all_folders_into_one_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, draws in zip(folders, ((0, 1), (1, 2)), strict=True):
        for draw in draws:
            save_record(folder, make_record(draw=draw))
    missing = make_record("svm", draw=0)
    save_failure(folders[0], missing.protocol, ValueError("no convergence"))
    assert main(["report", "--results", *map(str, folders), "--out", str(tmp_path / "pages")]) == 0
    path = tmp_path / "pages" / "report.html"
    assert capsys.readouterr().out == f"3 records: {path}\n"
    document = data_in(path.read_text(encoding="utf-8"))
    (row,) = rows_of(document)
    assert (row["label"], row["draws"], len(row["records"])) == ("rf", 3, 3)
    assert any("no convergence" in note for note in document["groups"][0]["notes"])


def test_a_folder_without_records_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--results", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / 'none'} contains no records" in capsys.readouterr().err


def test_the_leaderboard_writes_the_same_page(tmp_path: Path) -> None:
    for method in ("rf", "svm"):
        for draw in range(2):
            save_record(tmp_path, make_record(method, draw=draw))
    assert main(["leaderboard", "--results", str(tmp_path)]) == 0
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "pages")]) == 0
    pages = [tmp_path / "leaderboard" / "leaderboard.html", tmp_path / "pages" / "report.html"]
    one, other = (path.read_text(encoding="utf-8") for path in pages)
    assert one == other
