"""The speed suite judges ratios rightly, and its committed table is the one on the page. It measures nothing here."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
SPEED = REPOSITORY / "benchmarks" / "speed"
LINE = {"method": "a", "work": "b", "ratio": 2.0, "lead": None, "noise": 0.01}


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the suite's main module, which is not run."""
    monkeypatch.syspath_prepend(str(SPEED))
    return runpy.run_path(str(SPEED / "__main__.py"), run_name="suite")


def committed(suite: dict[str, Any], folder: Path, **changes: Any) -> None:
    path = folder / "ratios.json"
    path.write_text(json.dumps({"processor": "p", "ratios": {"a: b": {**LINE, **changes}}}))
    suite["compare"].__globals__["COMMITTED"] = path


@pytest.mark.parametrize(
    ("found", "before", "worse"),
    [
        ({"ratio": 2.15}, {}, False),  # within a tenth
        ({"ratio": 2.25}, {}, True),
        ({"ratio": 2.25, "noise": 0.05}, {}, False),  # within three times the noise of both
        ({"ratio": 2.25}, {"noise": 0.05}, False),
        ({"ratio": 1.0}, {}, False),
        ({"ratio": None, "lead": 80.0}, {"ratio": None, "lead": 100.0}, True),
        ({"ratio": None, "lead": 120.0}, {"ratio": None, "lead": 100.0}, False),
    ],
)
def test_a_ratio_is_worse_only_beyond_its_noise(
    suite: dict[str, Any], tmp_path: Path, found: dict[str, Any], before: dict[str, Any], worse: bool
) -> None:
    committed(suite, tmp_path, **before)
    with pytest.raises(SystemExit) as stop:
        suite["compare"]([{**LINE, **found}], "p")
    assert bool(stop.value.code) is worse


def test_ratios_of_another_processor_are_not_judged(
    suite: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    committed(suite, tmp_path)
    suite["compare"]([{**LINE, "ratio": 9.0}], "q")
    assert capsys.readouterr().out == "The committed ratios are those of p; nothing was compared.\n"


def test_a_busy_machine_is_refused(suite: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = suite["psutil"]
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 60.0)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)
    with pytest.raises(Exception, match=r"^other programs use 1\.\d cores; ratios measured now mean nothing"):
        suite["check_idle"]()


def test_the_page_shows_the_committed_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED))
    table = runpy.run_path(str(SPEED / "page.py"), run_name="page")["committed_table"]()
    assert table.strip() in (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
