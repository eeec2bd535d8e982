"""Tutorials, which are scripts with cells (``# %%``), as pages."""

from __future__ import annotations

import re
from pathlib import Path

_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?.*\n", re.MULTILINE)


def cells(text: str) -> list[tuple[bool, str]]:
    """The cells of a script: whether a cell is text, and its content."""
    marks = list(_CELL.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [(bool(mark["kind"]), text[mark.end() : end].strip("\n")) for mark, end in zip(marks, ends, strict=True)]


def tutorial_page(script: Path) -> str:
    """The Markdown of a tutorial."""
    parts = []
    for is_text, content in cells(script.read_text(encoding="utf-8")):
        if is_text:
            parts.append(re.sub(r"^# ?", "", content, flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{content.strip()}\n```")
    return "\n\n".join(parts) + "\n"
