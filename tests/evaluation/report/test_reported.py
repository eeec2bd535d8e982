"""Results reported in papers: the shipped file is valid, and its results stay apart from measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.synthetic_records import REPORTED, fixed_tables, make_record, values

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.evaluation.report.reported import load_reported
from mmrs_bench.scenes.catalogue import shipped_names


def test_reported_results_have_a_table_of_their_own() -> None:
    (table,) = [table for table in fixed_tables() if "reported in papers" in table.title]
    assert "not comparable" in table.title
    assert values(table, "method") == [("MFT",), ("DiffCLIP",)]
    assert "98.32" not in render(fixed_tables(), "csv")
    # The simulation of a scene does not show results on the real scene.
    assert len(build_leaderboard([make_record(scene="sim-trento-r1", simulated=True)], (), REPORTED)) == 1


def test_the_shipped_file_is_valid_and_about_shipped_scenes() -> None:
    results = load_reported()
    assert len(results) >= 30
    assert {result.scene for result in results} <= set(shipped_names())
    assert all(result.oa is not None or result.claim for result in results)


def test_a_faulty_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reported.yaml"
    path.write_text("- {scene: trento, method: X, inputs: hsi, oa: 980, source: a, difference: b}")
    with pytest.raises(ConfigError, match=r"0.oa: Input should be less than or equal to 100"):
        load_reported(path)
    with pytest.raises(ConfigError, match=r"does not exist; give a list of reported results"):
        load_reported(tmp_path / "absent.yaml")
