"""``export`` and ``import`` of results, from runs to the leaderboard; and the template of submissions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.stored_scene import store_scene

from mmrs_bench.api.results import load_results
from mmrs_bench.cli.parser import build_parser
from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.cells import Suite, build_cells
from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.evaluation.run.runner import run_cell
from mmrs_bench.paths import REPOSITORY

LAB = "Example Lab"


def computed(folder: Path, manifest: Path, *methods: str) -> None:
    """Compute two draws of some methods on a scene, and save their records."""
    suite = Suite.of({"datasets": (str(manifest),), "methods": methods, "draws": 2, "budget": "smoke"})
    for cell in build_cells(suite):
        save_record(folder, run_cell(cell, ExecutionConfig(), folder, lambda stage, done: None))


def test_commands_from_a_run_to_the_leaderboard_of_others(
    tmp_path: Path, printed: Callable[..., str], refused: Callable[..., str]
) -> None:
    """Two laboratories compute the same cells; one of them imports the results of the other one."""
    manifest = store_scene(tmp_path / "scene")
    computed(tmp_path / "theirs", manifest, "nearest-prototype", "majority")
    computed(tmp_path / "mine", manifest, "nearest-prototype")
    out = tmp_path / "lab.zip"
    lines = printed("export", tmp_path / "theirs", "--out", out, "--origin", LAB).splitlines()
    assert lines[0] == "stored-r1, budget smoke: majority, 2 records"
    assert lines[-1] == f"{out}: 4 records of {LAB}; others read it with mmrs-bench import"
    lines = printed("import", out, "--results", tmp_path / "mine").splitlines()
    assert lines[-2] == ("2 of the cells were also computed here: 2 have the same confusion matrix, 0 another one")
    assert lines[-1] == f"4 records of {LAB} in {tmp_path / 'mine' / 'imported' / 'example-lab'}"
    assert printed("import", out, "--results", tmp_path / "mine").splitlines()[-1].startswith("are there already: 4")
    shown = printed("leaderboard", "--results", tmp_path / "mine")
    assert "majority [Example" in shown
    table = (tmp_path / "mine" / "leaderboard" / "leaderboard.md").read_text()
    assert "| Origin |" in table
    assert "6 records" in printed("report", "--results", tmp_path / "mine", "--out", tmp_path / "page")
    # The run does not take imported cells for its own.
    options = ("--dataset", manifest, "--budget", "smoke", "--draws", 2, "--methods", "majority")
    assert "2 cells, 0 done, 2 to do" in printed("plan", *options, "--results", tmp_path / "mine")
    assert "say whose results these are" in refused("export", tmp_path / "theirs", "--out", tmp_path / "x.zip")
    assert "--pretrained is for models" in refused(
        "export", tmp_path / "theirs", "--out", tmp_path / "x.zip", "--origin", LAB, "--pretrained"
    )
    assert "is no results folder, which --origin" in refused(
        "export", tmp_path / "scene", "--out", tmp_path / "x.zip", "--origin", LAB
    )
    assert "was imported, and a map needs its model" in _map_fault(tmp_path / "mine")


def _map_fault(results: Path) -> str:
    with pytest.raises(ConfigError) as found:
        load_results(results).map(f"majority [{LAB}]", progress=False)
    return str(found.value)


def test_the_template_of_submissions_has_a_head_and_valid_commands() -> None:
    """GitHub lists a template only if its head has a name and a description."""
    text = (REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "results.md").read_text()
    _, head, body = text.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields.keys() == {"name", "about", "title", "labels"}
    assert all(isinstance(value, str) and value for value in fields.values())
    (command,) = re.findall(r"^mmrs-bench (.+)$", body, re.MULTILINE)
    parsed = build_parser().parse_args(shlex.split(command))
    assert parsed.export.source == "my-results"
    assert (REPOSITORY / "docs" / "submitting-results.md").is_file()
    assert "docs/submitting-results.md" in body
