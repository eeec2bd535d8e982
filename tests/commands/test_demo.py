"""The first look: a table, and files that can be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrs_bench.cli import main


@pytest.mark.slow
def test_the_demo_prints_a_table_and_names_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "look"
    assert main(["demo", "--out", str(folder)]) == 0
    text = capsys.readouterr().out
    for name, beginning in (
        ("curves.png", b"\x89PNG"),
        ("map.png", b"\x89PNG"),
        ("leaderboard.html", b"<!doctype html>"),
    ):
        assert (folder / name).read_bytes()[: len(beginning)].lower() == beginning.lower()
        assert str(folder / name) in text
    assert all(method in text for method in ("svm-emp", "cnn", "nearest-prototype", "SIMULATED"))
