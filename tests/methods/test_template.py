"""The templates of docs/adding-a-method.md conform, are short, and can be run by the path of their cards."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from mmrs_bench.cli import main
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.methods.catalogue import method_card
from mmrs_bench.methods.conformance import check
from mmrs_bench.paths import REPOSITORY

TEMPLATES = REPOSITORY / "docs" / "templates"
NAMES = ("my_method", "my_plain_method")
LARGEST_METHOD = 35


def code_lines(text: str) -> int:
    """Number of lines without blank lines, comments and docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(map(str.strip, text.splitlines()), start=1)
    return sum(bool(line) and not line.startswith("#") and number not in docstrings for number, line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_templates_conform(name: str) -> None:
    assert [finding for finding in check(method_card(str(TEMPLATES / name / "card.yaml"))) if finding.fault] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_point_of_a_template_is_its_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TEMPLATES))
    assert TEMPLATES / name / "card.yaml" == importlib.import_module(name).CARD


def test_a_method_with_pretraining_is_short() -> None:
    assert code_lines((TEMPLATES / "my_method" / "method.py").read_text()) <= LARGEST_METHOD
    assert code_lines('"""Docstring."""\n\n# comment\ndef f(\n    x\n):\n    """Docstring."""\n    return x\n') == 4


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_template(name: str) -> None:
    page = (REPOSITORY / "docs" / "adding-a-method.md").read_text()
    assert (TEMPLATES / name / "method.py").read_text() in page


def test_templates_run_by_the_path_of_their_cards(tmp_path: Path) -> None:
    methods = [str(TEMPLATES / name / "card.yaml") for name in NAMES]
    options = ["--datasets", "simulated", "--draws", "1", "--budget", "smoke", "--results", str(tmp_path)]
    assert main(["run", *options, "--workers", "1", "--methods", *methods]) == 0
    accuracies = {record.protocol.method: record.scores.oa for record in load_records(tmp_path)}
    assert set(accuracies) == {"my-method", "my-plain-method"}
    assert min(accuracies.values()) > 0.3
