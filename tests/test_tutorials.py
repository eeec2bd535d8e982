"""The tutorials run, and end with what they promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from mmrs_bench.paths import REPOSITORY

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def executed(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """The variables of a tutorial after its last cell."""
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(folder))
    monkeypatch.chdir(folder)
    mpl.use("agg")
    path = TUTORIALS / f"{name}.py"
    variables: dict[str, Any] = {"__name__": "__main__"}
    for cell in re.split(r"^# %%.*\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        exec(compile(cell, str(path), "exec"), variables)  # noqa: S102 - the cells of our own tutorial
    return variables


@pytest.mark.slow
def test_own_scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = executed("own_scene", monkeypatch, tmp_path)
    assert len(found["results"]) == 2 * 3 * 6
    assert "svm-emp" in str(found["results"].leaderboard())
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty", "ignore:.*litlogger")
def test_own_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = executed("own_module", monkeypatch, tmp_path)
    assert (found["predicted"] == found["data"].query_targets).mean() > 0.5
    assert found["scores"][0]["test/OA"] > 0.6
    assert "OA of CentreNet" in capsys.readouterr().out
