"""Parts of Markdown pages, and TeX formulas as MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from textwrap import indent

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown in one line, and ``|`` in them is shown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def code(text: str) -> str:
    """A text as code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def block(text: str, language: str = "text") -> str:
    """Lines as a block of code."""
    return f"```{language}\n{text.strip(chr(10))}\n```"


def details(title: str, content: str) -> str:
    """A part that opens by a click."""
    return f'??? note "{title}"\n\n{indent(content, "    ")}'


def plain(text: str) -> str:
    """A text without the marks of docstrings: double backticks and roles of references become code."""
    return re.sub(r"``([^`]*)``", r"`\1`", re.sub(r"\s+", " ", text)).strip()


def with_formulas(page: str) -> str:
    """The HTML of a page in which the TeX that Markdown marked is MathML."""
    page = _BLOCK.sub(lambda found: f'<div class="formula">{_mathml(found[1], "block")}</div>', page)
    return _INLINE.sub(lambda found: _mathml(found[1], "inline"), page)


def _mathml(formula: str, display: str) -> str:
    return str(convert(html.unescape(formula.strip()), display=display))
