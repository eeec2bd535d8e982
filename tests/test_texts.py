"""Names and messages of others in every output: no control characters, no formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fake_cells import make_cells
from helpers.synthetic_records import make_failure, make_record
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mmrs_bench.commands import output
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.run.display.progress import RunDisplay
from mmrs_bench.io import write_csv
from mmrs_bench.texts import inert, one_line, printable

#: Colours, the terminal's title, a bell, a return, a reversed direction of writing, a C1 escape, half of a pair.
HOSTILE = "\x1b[31m\x1b]0;title\x07 a\rb \u202egnp\u2066 \x9b2J \ud800\u2028"
SAFE = "\\x1b[31m\\x1b]0;title\\x07 a\\rb \\u202egnp\\u2066 \\x9b2J \\ud800\\u2028"


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable(HOSTILE) == SAFE
    assert printable("κ ± 5\N{NO-BREAK SPACE}% ä 草 🙂") == "κ ± 5\N{NO-BREAK SPACE}% ä 草 🙂"
    assert one_line(" a\n\t b\x1b\r\n") == "a b\\x1b"
    assert one_line("\u05c8\ue000") == "\\u05c8\\ue000"


@given(st.text())
def test_printable_texts_can_be_encoded_and_stay_the_same(text: str) -> None:
    safe = printable(text)
    assert printable(safe) == safe
    safe.encode()


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", " =1", "＝1", "-"]
)
def test_formulas_are_made_inert(text: str) -> None:
    assert inert(text) == "'" + printable(text)


@pytest.mark.parametrize("text", ["-1", "+2.5", "-.5e-3", "1=1", "", "OA|trento", "a@b", "'=1"])
def test_numbers_and_other_texts_are_kept(text: str) -> None:
    assert inert(text) == text


def test_csv_files_contain_no_formula(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ("=name", "x"), [("@a", -1.5), ("\x1b", None)])
    assert (tmp_path / "t.csv").read_text() == "'=name,x\n'@a,-1.5\n\\x1b,\n"


@pytest.fixture
def hostile_results(tmp_path: Path) -> Path:
    """A scene, classes and a message with hostile texts."""
    hostile = HOSTILE.replace("\ud800", "")
    record = make_record(title=hostile, external_data="=1+1", unranked=hostile)
    save_record(tmp_path, record.model_copy(update={"class_names": ("=1+1", hostile, "<script>")}))
    failure = make_failure(draw=1)
    save_failure(tmp_path, failure.protocol, ConfigError(hostile))
    return tmp_path


def test_the_leaderboard_shows_no_control_characters(hostile_results: Path, printed: Callable[..., str]) -> None:
    terminal, written = printed("leaderboard", "--results", hostile_results), hostile_results / "leaderboard"
    texts = {
        path.name: path.read_text() for path in written.iterdir() if path.suffix in (".md", ".csv", ".tex", ".html")
    }
    texts["terminal"] = terminal
    assert texts.keys() >= {"leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html", "draws.csv"}
    for name, text in texts.items():
        assert printable(text.replace("\n", "")) == text.replace("\n", ""), name
    for name in ("leaderboard.csv", "classes.csv", "draws.csv"):
        cells = [cell for row in csv.reader(io.StringIO(texts[name])) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+"))], name
    assert "'=1+1" in texts["classes.csv"]


def test_lines_of_commands_show_no_control_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output.say(HOSTILE)
    output.say_progress(HOSTILE)
    output.say_columns([(HOSTILE, "x"), ("y", "z")])
    (cell,) = make_cells(1)
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    with RunDisplay({cell.key: cell}, [], tmp_path, console) as display:
        display.on_stage(cell.key, f"[red]{HOSTILE}", 0.5)
        display.line(HOSTILE)
        stage = str(display.view(200).renderables[1])
        assert "[red]\\x1b[31m" in stage
        assert stage.isprintable()
    captured = capsys.readouterr()
    assert (captured.out.splitlines()[0], captured.err) == (SAFE, f"{SAFE}\n")
    assert HOSTILE[:4] not in captured.out
    assert SAFE in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_text_of_an_error_is_one_printable_line() -> None:
    assert str(ConfigError("a\x1b[2J\n  b\r\u202e")) == "a\\x1b[2J b \\u202e"


def test_an_error_shows_no_control_characters(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J.yaml"
    path.write_text("id: \x07")
    line = refused("data", "verify", path)
    assert "a\\x1b[2J.yaml" in line
    assert line.isprintable()
