"""Tables as terminal text, Markdown, CSV, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmrs_bench.errors import unknown_name
from mmrs_bench.evaluation.report.tables import Column, Estimate, Section, Table, Value, cell_text

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a terminal that a text which may be wrapped gets at least.
_LEAST_TEXT = 16

FORMATS = ("terminal", "md", "csv", "tex", "html")


def render(tables: Sequence[Table], fmt: str, *, width: int = 100) -> str:
    """Tables as one text.

    Args:
        tables: In order. The CSV holds the rows of tidy tables only, under one header.
        fmt: One of `FORMATS`.
        width: Columns of the terminal; other formats ignore it.

    Raises:
        ConfigError: If the format is unknown.
    """
    if fmt == "terminal":
        from rich.console import Console

        text = io.StringIO()
        print_tables(tables, Console(file=text, width=width, color_system=None, legacy_windows=False))
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
    if fmt == "csv":
        return csv_text(tables)
    if fmt == "html":
        return _html_page(tables)
    if fmt == "md":
        return "\n".join(_markdown(table) for table in tables)
    if fmt == "tex":
        return _LATEX_HEAD + "\n".join(_latex(table) for table in tables)
    raise unknown_name("format", fmt, FORMATS)


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Print tables to a rich console, each with its protocol card above and its notes below."""
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in tables:
        console.print(Text(table.title, style="bold"))
        if table.card:
            card = RichTable.grid(padding=(0, 2))
            for label, text in table.card:
                card.add_row(Text(label, style="dim"), Text(text, style="dim", overflow="fold"))
            console.print(Padding(card, (0, 0, 1, 2), expand=False))
        for number, section in enumerate(table.sections):
            _print_section(table, section, console, first=number == 0)
        for note in table.notes:
            console.print(Padding(Text(note, style="italic"), (0, 0, 0, 2), expand=False))
        console.print()


def _print_section(table: Table, section: Section, console: Console, *, first: bool) -> None:
    """One block of rows. All blocks of a table have columns of the same width; only the first has headings."""
    from rich import box
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    rows = [row for other in table.sections for row in other.rows]
    needed = 2
    block = RichTable(box=box.SIMPLE_HEAD, show_header=first, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in table.shown:
        longest = max([len(column.title), *(len(cell_text(row.get(column.key), column)) for row in rows)])
        whole = column.kind != "text" or column.fixed
        least = longest if whole else min(longest, _LEAST_TEXT)
        needed += least + 2
        block.add_column(
            Text(column.title),
            justify="left" if column.kind == "text" else "right",
            min_width=least,
            no_wrap=whole,
            overflow="fold",
        )
    for row in section.rows:
        block.add_row(*(Text(cell_text(row.get(column.key), column)) for column in table.shown))
    if section.title:
        console.print(Padding(Text(section.title, style="underline"), (0 if first else 1, 0, 0, 2), expand=False))
    if needed <= console.width:
        console.print(Padding(block, (0, 0, 0, 2), expand=False))
    else:
        # No column may vanish: too long lines are left to the terminal to wrap.
        block.width = needed
        console.print(block, crop=False, no_wrap=True, overflow="ignore")


def csv_text(tables: Sequence[Table]) -> str:
    """The rows of all tidy tables under one header; an estimate fills ``_mean``, ``_sd``, ``_low`` and ``_high``."""
    columns: dict[str, Column] = {}
    rows = []
    for table in tables:
        if table.tidy:
            columns.update({column.key: column for column in table.columns})
            rows += [row for section in table.sections for row in section.rows]
    names = [name for column in columns.values() for name in _csv_names(column)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        flat: dict[str, Value] = {}
        for column in columns.values():
            value = row.get(column.key)
            values = value if isinstance(value, Estimate) else (value,)
            flat.update(zip(_csv_names(column), map(_csv_value, values), strict=False))
        writer.writerow(flat)
    return text.getvalue()


def _csv_names(column: Column) -> list[str]:
    if column.kind != "estimate":
        return [column.key]
    return [f"{column.key}_{part}" for part in Estimate._fields]


def _csv_value(value: Value) -> Value:
    return round(value, 6) if isinstance(value, float) else value


def _markdown(table: Table) -> str:
    lines = [f"### {_markdown_escape(table.title)}", ""]
    if table.card:
        pad = max(len(label) for label, _ in table.card)
        lines += ["```text", *(f"{label:<{pad}}  {text}" for label, text in table.card), "```", ""]
    shown = table.shown
    lines.append(_markdown_row([_markdown_escape(column.title) for column in shown]))
    lines.append(_markdown_row(["---" if column.kind == "text" else "---:" for column in shown]))
    for section in table.sections:
        if section.title:
            # Tables have no spanning cells in Markdown; the heading stands in the first column of texts.
            place = next((i for i, column in enumerate(shown) if column.kind == "text"), 0)
            heading = f"*{_markdown_escape(section.title)}*"
            lines.append(_markdown_row([heading if i == place else "" for i in range(len(shown))]))
        for row in section.rows:
            lines.append(_markdown_row([_markdown_escape(cell_text(row.get(c.key), c)) for c in shown]))
    if table.notes:
        lines += ["", *(f"- {_markdown_escape(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
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


def _latex_escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex(table: Table) -> str:
    shown = table.shown
    align = "".join("l" if column.kind == "text" else "r" for column in shown)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_escape(table.title)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_row([column.title for column in shown]),
        r"\midrule",
    ]
    for number, section in enumerate(table.sections):
        if section.title:
            if number:
                lines.append(r"\midrule")
            lines.append(rf"\multicolumn{{{len(shown)}}}{{l}}{{\emph{{{_latex_escape(section.title)}}}}} \\")
        lines += [_latex_row([cell_text(row.get(c.key), c) for c in shown]) for row in section.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    small = [f"{label}: {text}" for label, text in table.card] + list(table.notes)
    if small:
        lines += ["", r"\smallskip", r"\parbox{\linewidth}{\footnotesize\raggedright"]
        lines += [_latex_escape(line) + r"\par" for line in small]
        lines.append("}")
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(map(_latex_escape, cells))} \\\\"


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


def _html_page(tables: Sequence[Table]) -> str:
    return _HTML_HEAD + "".join(map(_html, tables)) + "</body>\n</html>\n"


def _html(table: Table) -> str:
    shown = table.shown
    lines = [f"<h2>{html.escape(table.title)}</h2>"]
    if table.card:
        lines += ["<dl>", *(f"<dt>{html.escape(a)}</dt><dd>{html.escape(b)}</dd>" for a, b in table.card), "</dl>"]
    lines += ["<table>", f"<thead>{_html_row('th', [column.title for column in shown], shown)}</thead>", "<tbody>"]
    for section in table.sections:
        if section.title:
            title = html.escape(section.title)
            lines.append(f'<tr class="section"><th colspan="{len(shown)}" scope="rowgroup">{title}</th></tr>')
        lines += [_html_row("td", [cell_text(row.get(c.key), c) for c in shown], shown) for row in section.rows]
    lines += ["</tbody>", "</table>"]
    if table.notes:
        lines += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in table.notes), "</ul>"]
    return "\n".join(lines) + "\n"


def _html_row(tag: str, cells: Sequence[str], columns: Sequence[Column]) -> str:
    texts = []
    for cell, column in zip(cells, columns, strict=True):
        kind = "" if column.kind == "text" else ' class="number"'
        scope = ' scope="col"' if tag == "th" else ""
        texts.append(f"<{tag}{kind}{scope}>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(texts)}</tr>"
