"""Tables in every format: gold files, escaping, widths."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.synthetic_records import fixed_tables

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.render import FORMATS, render
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, format_value

GOLD = Path(__file__).parent / "gold"
#: Set this variable to update the gold files. The tests then fail once, as a reminder to review the changes.
UPDATE = "MMRS_BENCH_UPDATE_GOLD"

#: A table with the special characters of every format.
SPECIAL = Table(
    title="50 % of a_b & <c> | #1 ~ ^ \\ {x} $y$",
    columns=(Column("a", "A|B"), Column("n", "N", "number")),
    sections=(Section("s_1 <i>", ({"a": "x|y_*z*", "n": -0.001}, {"a": "<script>", "n": None})),),
    card=(("k_1", "<v>"),),
    notes=("100 % & more_",),
)


@pytest.mark.parametrize("fmt", FORMATS)
def test_output_equals_the_gold_file(fmt: str) -> None:
    """A ranking, a table over shots and one of reported results; the terminal also shows a simulated scene."""
    simulated, ranking, _, over_shots, reported = fixed_tables()
    tables = [simulated, ranking, over_shots, reported][fmt != "terminal" :]
    path, text = GOLD / f"leaderboard.{fmt}", render(tables, fmt)
    if os.environ.get(UPDATE):
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} was updated; review the changes and run again without {UPDATE}")
    assert text == path.read_text(encoding="utf-8")


def test_the_width_of_a_terminal_changes_only_the_ends_of_lines() -> None:
    narrow, wide = (render(fixed_tables(), "terminal", width=width) for width in (112, 160))
    longest = [max(map(len, text.splitlines())) for text in (narrow, wide)]
    assert 100 < longest[0] <= 112 < longest[1] <= 160
    assert re.sub(r"[\s─]", "", narrow) == re.sub(r"[\s─]", "", wide)


def test_simulated_results_are_marked_and_show_the_pixel_bounds() -> None:
    for fmt in ("terminal", "md", "tex", "html"):
        text = render(fixed_tables(), fmt)
        assert {"SIMULATED" in line for line in text.splitlines() if "Simulated town" in line} == {True}
        assert re.search(r"71\.20.*88\.40", text, re.DOTALL)
    rows = list(csv.DictReader(io.StringIO(render(fixed_tables(), "csv"))))
    assert {(row["scene"], row["simulated"]) for row in rows} == {("simulated-r1", "true"), ("trento-r1", "false")}


def test_latex_special_characters_are_escaped() -> None:
    text = render([SPECIAL], "tex")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    without_escapes = re.sub(r"\\[&%$#_{}]|\\\\|\\[a-z]+|\$(\\[a-z]+|-)\$", "", body)
    assert [line for line in without_escapes.splitlines() if "x" in line or "script" in line]
    assert not any(re.search(r"[%#_$^~]", line) for line in without_escapes.splitlines())
    assert body.count("{") - body.count(r"\{") == body.count("}") - body.count(r"\}")
    assert r"\toprule" in body
    assert r"\bottomrule" in body


def test_html_is_well_formed_and_escaped() -> None:
    text = render([SPECIAL, *fixed_tables()], "html")
    root = ElementTree.fromstring(re.sub(r"<meta[^>]*>", "", text))  # noqa: S314 - the text is ours
    assert root.find(".//script") is None
    assert any(cell.text == "<script>" for cell in root.iter("td"))


def test_markdown_rows_have_equal_numbers_of_cells() -> None:
    for table in [SPECIAL, *fixed_tables()]:
        lines = [line for line in render([table], "md").splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.shown) + 1}


def test_a_narrow_terminal_shows_all_columns() -> None:
    text = render(fixed_tables(), "terminal", width=50)
    for label in ("rf-spatial", "cnn [paper-val]", "Params", "Seconds", "33.0"):
        assert label in text


def test_a_command_in_a_note_is_not_broken_into_lines() -> None:
    command = f"Failed: unidiff: no checkpoint. {'Words. ' * 20}Fetch it with: mmrs-bench weights fetch adm-imagenet-64"
    table = Table(title="t", columns=(Column("a", "A"),), sections=(Section("", ({"a": "x"},)),), notes=(command,))
    assert f"  {command}" in render([table], "terminal", width=60).splitlines()


def test_values_are_formatted_by_the_kind_of_their_column() -> None:
    number, size = Column("x", kind="number"), Column("x", kind="size")
    assert [format_value(v, number) for v in (None, 3, 3.14159, -0.001, -2.5)] == ["–", "3", "3.14", "0.00", "−2.50"]
    assert [format_value(v, size) for v in (12, 1_234, 295_904_454, 3e9)] == ["12", "1.2k", "295.9M", "3.0G"]
    assert format_value(Estimate(80.5, None, None, None), number) == "80.50"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown format 'latex'.*tex"):
        render([], "latex")
    assert all(isinstance(render([], fmt), str) for fmt in FORMATS)
