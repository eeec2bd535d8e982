"""Text from files and from other machines, made safe for a terminal, a log, a table or a spreadsheet."""

from __future__ import annotations

import codecs
import io
import re
import sys
import unicodedata
from functools import lru_cache

#: Unicode categories that are shown as escapes: control characters, invisible format characters (such as those that
#: reverse the direction of writing), halves of surrogate pairs, unassigned and private characters, separators of lines
#: and paragraphs.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})

#: A spreadsheet runs a cell that begins with one of these as a formula; the last four are their full-width forms.
_FORMULA = tuple("=+-@\t\r＝＋－＠")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

#: What stands in place of characters that the encoding of a terminal lacks; for all others a question mark.
_PLAIN = {
    "±": "+-",
    "κ": "k",
    "–": "-",
    "—": "-",
    "−": "-",
    "×": "x",
    "…": "...",
    "─": "-",
    "│": "|",
    "━": "=",
    "≥": ">=",
}

#: BibTeX entries, each from ``@type{key,`` to a line with its closing brace alone.
_BIBTEX = re.compile(r"(\s*@\w+\{[^,\s{}]+,[^\n]*\n(?:(?!\}\s*$).*\n)*\}\s*)+", re.MULTILINE)


def prepare_streams() -> None:
    """Let standard output and error accept every character, whatever their encoding is."""
    codecs.register_error("mmrs_bench", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mmrs_bench")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


def printable(text: str) -> str:
    """A text with control and invisible characters as escapes, such as that which starts a terminal command."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED else c for c in text)


def one_line(text: str) -> str:
    """A `printable` text in one line; line breaks and repeated blanks become one blank."""
    return printable(" ".join(text.split()))


def figure_text(text: str) -> str:
    """A `printable` text in which matplotlib finds no formula between dollar signs."""
    return printable(text).replace("$", r"\$")


@lru_cache(maxsize=10_000)  # a table has the same names in many rows
def inert(text: str) -> str:
    """A `printable` text that no spreadsheet runs as a formula: a quote is put before it unless it is a number."""
    formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return ("'" if formula and not _NUMBER.fullmatch(text) else "") + printable(text)


def duration_text(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rough_duration(seconds: float) -> str:
    """A duration as people say it: ``less than 10 seconds``, ``about 7 minutes``."""
    if seconds < 10:
        return "less than 10 seconds"
    for limit, unit, step, name in ((90, 1, 10, "seconds"), (5400, 60, 1, "minutes"), (129_600, 3600, 1, "hours")):
        if seconds < limit:
            return f"about {round(seconds / unit / step) * step} {name}"
    return f"about {round(seconds / 86_400)} days"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def check_bibtex(text: str) -> None:
    """Raise a ``ValueError`` if a text is neither empty nor made of BibTeX entries."""
    if text and not _BIBTEX.fullmatch(text):
        raise ValueError("expected BibTeX entries, each from '@type{key,' to a line with its closing '}' alone")
    if text.count("{") != text.count("}"):
        raise ValueError("has more opening than closing braces, or fewer; a BibTeX file would end there")
