"""The examples of docs/python.md, run as the cells of a real notebook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmrs_bench.evaluation.results.records import load_records

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)

Outputs = list[dict[str, Any]]


def run_notebook(cells: Sequence[str], folder: Path) -> list[Outputs]:
    """The outputs of each cell."""
    variables = {"IPYTHONDIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "run_notebook.py")],
        input=json.dumps(list(cells)),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **variables},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[Outputs] = json.loads(done.stdout)
    return outputs


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Outputs], Path]:
    folder = tmp_path_factory.mktemp("notebook")
    return run_notebook(EXAMPLES, folder), folder


def shown(outputs: Outputs) -> dict[str, str]:
    """The last value of a cell, by format."""
    (result,) = (output for output in outputs if output["output_type"] == "execute_result")
    return {name: "".join(text) for name, text in result["data"].items()}


def test_three_lines_show_the_first_table(notebook: tuple[list[Outputs], Path]) -> None:
    outputs, folder = notebook
    assert len([line for line in EXAMPLES[0].splitlines() if line]) == 3
    assert '<div class="mmrs-bench">' in shown(outputs[0])["text/html"]
    assert "cnn" in shown(outputs[0])["text/plain"]
    assert len(load_records(folder / "results")) == 8


def test_the_progress_is_one_bar_and_a_line_for_each_cell(notebook: tuple[list[Outputs], Path]) -> None:
    first = notebook[0][0]
    lines = "".join("".join(o["text"]) for o in first if o["output_type"] == "stream").splitlines()
    assert lines[0].startswith("4 cells to compute: ")
    assert [line.split()[0] for line in lines[1:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    bars = [output for output in first if output["output_type"] == "display_data"]
    assert len(bars) == 1
    assert bars[0]["data"]["text/html"] == "", "the bar is removed at the end"


def test_figures_are_pictures(notebook: tuple[list[Outputs], Path]) -> None:
    figures = [i for i, text in enumerate(EXAMPLES) if re.search(r"\.(curves|confusion|map)\(", text)]
    assert len(figures) == 3
    for number in figures:
        assert "image/png" in shown(notebook[0][number])


def test_every_example_shows_what_it_says(notebook: tuple[list[Outputs], Path]) -> None:
    *values, error = notebook[0]
    assert all(shown(outputs)["text/plain"] for outputs in values)
    (printed,) = error
    assert "".join(printed["text"]).startswith("unknown method 'cnm': did you mean cnn")
    for outputs in notebook[0]:
        printed_lines = [line for o in outputs if o.get("name") == "stderr" for line in "".join(o["text"]).splitlines()]
        # tqdm asks for widgets, which are no dependency.
        assert not [line for line in printed_lines if "tqdm" not in line]
