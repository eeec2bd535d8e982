"""Tables as terminal text, Markdown, CSV, LaTeX (booktabs) and HTML.

Names and messages in a table may come from files of others: every format shows control characters as escapes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation.report.tables import Section, Table
from mmrs_bench.io import csv_text

if TYPE_CHECKING:
    from rich.console import Console

#: Minimum width in the terminal of a column of wrapped text.
_MIN_TEXT_WIDTH = 16

#: A command in a note.
_COMMAND = re.compile(r"\b(mmrs-bench (?=[a-z])|pip install |make setup|python -)")

FORMATS = ("terminal", "md", "csv", "tex", "html")


def render(tables: Sequence[Table], fmt: str, *, width: int = 100) -> str:
    """Write tables as one text in a format of `FORMATS`; ``width`` is that of the terminal in characters.

    Raises:
        ConfigError: If the format is unknown.
    """
    if fmt == "terminal":
        from rich.console import Console

        text = io.StringIO()
        plain: dict[str, Any] = {"color_system": None, "legacy_windows": False, "force_jupyter": False}
        print_tables(tables, Console(file=text, width=width, **plain))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    if fmt == "csv":
        return _csv(tables)
    tables = [table.printable() for table in tables]
    if fmt == "html":
        return _HTML_HEAD + "".join(map(_html, tables)) + "</body>\n</html>\n"
    if fmt == "md":
        return "\n".join(map(_markdown, tables))
    if fmt == "tex":
        return _LATEX_HEAD + "\n".join(map(_latex, tables))
    raise unknown_name("format", fmt, FORMATS)


def html_fragment(tables: Iterable[Table]) -> str:
    """Tables as HTML to embed in another page, such as a notebook; the style applies to these tables only."""
    shown = "".join(_html(table.printable()) for table in tables)
    return f'<div class="mmrs-bench">\n<style>\n{_FRAGMENT_STYLE}</style>\n{shown}</div>\n'


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables to a rich console, with protocol cards above and notes below."""
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in map(Table.printable, tables):
        console.print(Text(table.title, style="bold"))
        if table.card:
            card = RichTable.grid(padding=(0, 2))
            for label, text in table.card:
                card.add_row(Text(label, style="dim"), Text(text, style="dim", overflow="fold"))
            console.print(Padding(card, (0, 0, 1, 2), expand=False))
        for number, section in enumerate(table.sections):
            _print_section(table, section, console, first=number == 0)
        for note in table.notes:
            if _COMMAND.search(note):  # in one piece, so that it can be copied
                console.print(Text(f"  {note}", style="italic"), soft_wrap=True)
            else:
                console.print(Padding(Text(note, style="italic"), (0, 0, 0, 2), expand=False))
        console.print()


def _print_section(table: Table, section: Section, console: Console, *, first: bool) -> None:
    """Print one section; all sections of a table have the same column widths."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    headings = [column.title for column in table.shown]
    columns = zip(table.shown, headings, *map(table.texts, table.rows), strict=True)
    total_width = 2
    block = RichTable(box=box.SIMPLE_HEAD, show_header=first, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, *texts in columns:
        longest = max(map(len, texts))
        no_wrap = column.kind != "text" or column.fixed
        width = longest if no_wrap else min(longest, _MIN_TEXT_WIDTH)
        total_width += width + 2
        justify: Literal["left", "right"] = "left" if column.kind == "text" else "right"
        block.add_column(Text(column.title), justify=justify, min_width=width, no_wrap=no_wrap, overflow="fold")
    for row in section.rows:
        block.add_row(*map(Text, table.texts(row)))
    if section.title:
        console.print(Padding(Text(section.title, style="underline"), (0 if first else 1, 0, 0, 2), expand=False))
    if total_width <= console.width:
        console.print(Padding(block, (0, 0, 0, 2), expand=False))
    else:
        # rich would drop columns.
        block.width = total_width
        console.print(block, crop=False, no_wrap=True, overflow="ignore")


def _csv(tables: Sequence[Table]) -> str:
    """Rows under one header; an estimate fills the fields ``_mean``, ``_sd``, ``_low`` and ``_high``."""
    written = [table for table in tables if table.in_csv]
    columns = {column.key: column for table in written for column in table.columns}
    names = [name for column in columns.values() for name in column.plain(None)]
    rows = (row for table in written for row in table.plain_rows())
    return csv_text(names, ([_csv_value(row.get(name)) for name in names] for row in rows))


def _csv_value(value: str | int | float | None) -> str | int | float | None:
    return round(value, 6) if isinstance(value, float) else value


def _markdown(table: Table) -> str:
    lines = [f"### {_markdown_escape(table.title)}", ""]
    if table.card:
        pad = max(len(label) for label, _ in table.card)
        lines += ["```text", *(f"{label:<{pad}}  {text}" for label, text in table.card), "```", ""]
    lines.append(markdown_table(table))
    if table.notes:
        lines += ["", *(f"- {_markdown_escape(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def markdown_table(table: Table) -> str:
    """The columns and rows of a table in Markdown, without title, card and notes."""
    shown = table.shown
    lines = [_markdown_row([_markdown_escape(column.title) for column in shown])]
    lines.append(_markdown_row(["---" if column.kind == "text" else "---:" for column in shown]))
    # Markdown has no spanning cells, so a section's heading is in the first text column.
    first_text = next((i for i, column in enumerate(shown) if column.kind == "text"), 0)
    for section in table.sections:
        if section.title:
            heading = f"*{_markdown_escape(section.title)}*"
            lines.append(_markdown_row([heading if i == first_text else "" for i in range(len(shown))]))
        lines += [_markdown_row(map(_markdown_escape, table.texts(row))) for row in section.rows]
    return "\n".join(lines)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_escape(text: str) -> str:
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)


_LATEX_HEAD = "% Needs \\usepackage{booktabs} in the preamble.\n"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "κ": r"$\kappa$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "–": "--",
    "−": "$-$",
}


def latex_escape(text: str) -> str:
    """A text in which LaTeX finds no command."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex(table: Table) -> str:
    shown = table.shown
    align = "".join("l" if column.kind == "text" else "r" for column in shown)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escape(table.title)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_row([column.title for column in shown]),
        r"\midrule",
    ]
    for number, section in enumerate(table.sections):
        if section.title:
            lines += [r"\midrule"] if number else []
            lines.append(rf"\multicolumn{{{len(shown)}}}{{l}}{{\emph{{{latex_escape(section.title)}}}}} \\")
        lines += [_latex_row(table.texts(row)) for row in section.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    small = [f"{label}: {text}" for label, text in table.card] + list(table.notes)
    if small:
        lines += ["", r"\smallskip", r"\parbox{\linewidth}{\footnotesize\raggedright"]
        lines += [latex_escape(line) + r"\par" for line in small]
        lines.append("}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(latex_escape, cells))} \\\\"


_HTML_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mmrs-bench leaderboard</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid #444; }
th, td { padding: .25rem .7rem; text-align: left; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
tbody tr:hover { background: #f2f5f9; }
.section th { font-style: italic; font-weight: normal; border-top: 1px solid #999; padding-top: .6rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; font-size: .85rem; color: #444; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
ul { font-size: .9rem; padding-left: 1.2rem; }
</style>
</head>
<body>
<h1>mmrs-bench leaderboard</h1>
"""


_FRAGMENT_STYLE = """\
.mmrs-bench h2 { font-size: 1.05rem; margin: 1.2rem 0 .4rem; }
.mmrs-bench table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0; }
.mmrs-bench table th, .mmrs-bench table td { padding: .2rem .6rem; text-align: left; }
.mmrs-bench table .number { text-align: right; white-space: nowrap; }
.mmrs-bench .section th { font-style: italic; font-weight: normal; }
.mmrs-bench dl { display: grid; grid-template-columns: max-content auto; gap: 0 1rem; font-size: .85em; margin: 0; }
.mmrs-bench dt { font-weight: 600; } .mmrs-bench dd { margin: 0; overflow-wrap: anywhere; }
.mmrs-bench ul { font-size: .9em; padding-left: 1.2rem; }
"""


def _html(table: Table) -> str:
    lines = [f"<h2>{escape(table.title)}</h2>"]
    if table.card:
        lines += ["<dl>", *(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in table.card), "</dl>"]
    header = _html_row(table, "th", [column.title for column in table.shown], ' scope="col"')
    lines += ["<table>", f"<thead>{header}</thead>", "<tbody>"]
    for section in table.sections:
        if section.title:
            heading = f'<th colspan="{len(table.shown)}" scope="rowgroup">{escape(section.title)}</th>'
            lines.append(f'<tr class="section">{heading}</tr>')
        lines += [_html_row(table, "td", table.texts(row)) for row in section.rows]
    lines += ["</tbody>", "</table>"]
    if table.notes:
        lines += ["<ul>", *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _html_row(table: Table, tag: str, texts: Sequence[str], attributes: str = "") -> str:
    kinds = ["" if column.kind == "text" else ' class="number"' for column in table.shown]
    cells = (f"<{tag}{kind}{attributes}>{escape(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True))
    return f"<tr>{''.join(cells)}</tr>"
