"""Titles, methods and classes that would be code in some format are text in every output of the suite."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
from helpers.pages import HOSTILE
from helpers.synthetic_records import make_failure, make_record, varied_hits
from markdown_it import MarkdownIt  # rich needs it
from rich.console import Console

from mmrs_bench.cli import main
from mmrs_bench.errors import TrainingError
from mmrs_bench.evaluation.report.render import markdown_table
from mmrs_bench.evaluation.report.tables import Column, Section, Table
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.display.board import Board, ShownCell
from mmrs_bench.evaluation.run.display.view import board_view
from mmrs_bench.texts import printable

SAFE = {name: f"plain-{name}" for name in HOSTILE}


def records(texts: dict[str, str]) -> Iterator[Record]:
    """Ranked and unranked records of two scenes with these texts as methods, classes and so on; one has a curve."""
    cells = [(texts["latex"], 0, 2), (texts["latex"], 1, 2), (texts["latex"], 0, 5), (texts["formula"], 0, 2)]
    for (scene, draw, shots), text in product(cells, texts.values()):
        for unranked in ("", text):
            record = make_record(
                text,
                varied_hits(150, draw),
                draw=draw,
                shots=shots,
                title=" ".join(texts.values()),
                scene=f"{scene}-r1",
                unranked=unranked,
                variant="other" if unranked else "default",
            )
            changes = {"class_names": (text, "b", "c"), "notes": (text,), "external_data": text}
            measured = record.measured.model_copy(update={"host": text})
            yield record.model_copy(update={**changes, "measured": measured})


def outputs(texts: dict[str, str], folder: Path, printed: Callable[..., str]) -> dict[str, str]:
    """What the commands write and print about these records, by file or command."""
    for record in records(texts):
        save_record(folder, record)
    for text in texts.values():
        failure = make_failure(text, draw=7, scene=f"{texts['latex']}-r1")
        save_failure(folder, failure.protocol, TrainingError(text))
    found = {}
    for command in ("leaderboard", "cite"):
        found[command] = printed(command, "--results", folder)
    found["watch"] = printed("watch", folder, status=1)  # some cells failed
    printed("report", "--results", folder, "--out", folder / "report")
    for path in (*(folder / "leaderboard").iterdir(), folder / "report" / "report.html"):
        if path.suffix not in (".png", ".pdf"):
            found[path.name] = path.read_text(encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """The outputs for hostile texts, and those for plain ones."""

    def printed(*arguments: object, status: int = 0) -> str:
        stream = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            assert main([str(argument) for argument in arguments]) == status
        return stream.getvalue()

    hostile, plain = (
        outputs(t, tmp_path_factory.mktemp(n), printed) for t, n in ((HOSTILE, "hostile"), (SAFE, "plain"))
    )
    assert len(hostile) == len(plain) > 12
    return hostile, plain


class Tags(HTMLParser):
    """Counts the tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attrs)}
        self.scripts += tag == "script"


def test_no_output_contains_a_terminal_command_or_a_reversed_line(both: tuple[dict[str, str], dict[str, str]]) -> None:
    for name, text in both[0].items():
        line = text.replace("\n", "").replace("\t", "") if name.endswith(".html") else text.replace("\n", "")
        assert printable(line) == line, name


def test_pages_have_the_tags_of_plain_ones(both: tuple[dict[str, str], dict[str, str]]) -> None:
    pages = [name for name in both[0] if name.endswith(".html")]
    assert sorted(pages) == ["leaderboard.html", "report.html"]
    for name in pages:
        hostile, plain = Tags(both[0][name]), Tags(both[1][name])
        assert hostile.found == plain.found
        assert hostile.scripts == plain.scripts


def test_markdown_has_no_tags_and_no_broken_rows(both: tuple[dict[str, str], dict[str, str]]) -> None:
    shown = [MarkdownIt("commonmark", {"html": True}).enable("table").render(text["leaderboard.md"]) for text in both]
    assert Tags(shown[0]).found == Tags(shown[1]).found
    assert shown[0].count("<td") == shown[1].count("<td")
    table = Table("t", (Column("a", "A"),), (Section("", tuple({"a": text} for text in HOSTILE.values())),))
    for line in markdown_table(table).splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 2


def test_latex_has_the_commands_of_plain_files(both: tuple[dict[str, str], dict[str, str]]) -> None:
    files = [name for name in both[0] if name.endswith(".tex")] + ["cite"]
    assert sorted(files) == ["cite", "leaderboard.tex", "paper-figures.tex", "paper.tex"]
    for name in files:
        commands = [set(re.findall(r"\\[a-z]+\*?", text[name])) for text in both]
        # Characters of the texts themselves, and places where a line may be broken.
        assert commands[0] - commands[1] <= {
            r"\textbackslash", r"\textless", r"\textgreater", r"\textasciicircum", r"\textasciitilde", r"\textbar",
            r"\allowbreak", r"\char", r"\textquotedbl", r"\textasciigrave",
        }, name  # fmt: skip
        assert not re.search(r"(?<!\\)\$x", text_of := both[0][name]), text_of


def test_spreadsheets_run_no_formula(both: tuple[dict[str, str], dict[str, str]]) -> None:
    files = [name for name in both[0] if name.endswith(".csv")]
    assert len(files) > 3
    for name in files:
        rows = list(csv.reader(io.StringIO(both[0][name])))
        assert {len(row) for row in rows} == {len(rows[0])}
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t")), (name, cell)
            assert not cell.startswith("-") or float(cell) < 0


def test_bibtex_has_the_entries_of_plain_results(both: tuple[dict[str, str], dict[str, str]]) -> None:
    entries = [re.findall(r"@\w*", text["cite"]) for text in both]
    assert entries[0] == entries[1]


def test_the_live_table_shows_names_as_text() -> None:
    cells = [ShownCell(name, "", (text, text, text, text, text, text, text)) for name, text in HOSTILE.items()]
    board = Board(cells)
    for cell in cells:
        board.stage(cell.key, cell.method, 0.5, 0.0)
    stream = io.StringIO()
    Console(file=stream, width=150, force_terminal=True, color_system=None).print(
        board_view(board, elapsed=1.0, now=1.0, width=150)
    )
    text = stream.getvalue()
    assert printable(text.replace("\n", "")) == text.replace("\n", "")
    assert "\\x1b]0;title\\x07" in text
    assert len(text.splitlines()) == 2 * len(cells) + 2
