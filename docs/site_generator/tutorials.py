"""Tutorials, which are scripts with cells (``# %%``), as pages with what their cells show.

The outputs are committed: ``python docs/site_generator/tutorials.py`` runs all tutorials again (two minutes).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
#: Texts and pictures that cells show.
OUTPUTS = TUTORIALS / "outputs"
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?.*\n", re.MULTILINE)


def cells(text: str) -> list[tuple[bool, str]]:
    """The cells of a script: whether a cell is text, and its content."""
    marks = list(_CELL.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [(bool(mark["kind"]), text[mark.end() : end].strip("\n")) for mark, end in zip(marks, ends, strict=True)]


def tutorial_page(script: Path) -> str:
    """The Markdown of a tutorial.

    Raises:
        ValueError: If the committed outputs are those of another version of the script.
    """
    text = script.read_text(encoding="utf-8")
    shown = json.loads((OUTPUTS / f"{script.stem}.json").read_text(encoding="utf-8"))
    if shown["script"] != _hash(text):
        raise ValueError(f"{script.name} has changed; run python docs/site_generator/tutorials.py, commit its outputs")
    parts = []
    for number, (is_text, content) in enumerate(cells(text)):
        if is_text:
            parts.append(re.sub(r"^# ?", "", content, flags=re.MULTILINE))
            continue
        parts.append(f"```python\n{content.strip()}\n```")
        output = shown["cells"].get(str(number), {})
        if output.get("text"):
            parts.append(f'```text title="Output"\n{output["text"]}\n```')
        parts += [f"![Figure of the cell above](outputs/{name})" for name in output.get("figures", [])]
    return "\n\n".join(parts) + "\n"


def execute(script: Path, folder: Path) -> None:
    """Run a tutorial, and write what its cells show to `OUTPUTS`.

    Args:
        script: The tutorial.
        folder: Where it writes its own files.
    """
    text = script.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown: dict[str, Any] = {}
    temporary, tempfile.mkdtemp = tempfile.mkdtemp, lambda: str(folder)  # type: ignore[assignment]
    try:
        for number, (is_text, content) in enumerate(cells(text)):
            if not is_text:
                shown[str(number)] = _output(content, names, f"{script.stem}-{number}")
    finally:
        tempfile.mkdtemp = temporary
    document = {"script": _hash(text), "cells": {number: output for number, output in shown.items() if output}}
    path = OUTPUTS / f"{script.stem}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _output(code: str, names: dict[str, Any], name: str) -> dict[str, Any]:
    """Run a cell; its printed text, and the value of its last line as text or figure."""
    from matplotlib.figure import Figure

    tree, value = ast.parse(code), None
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        tree.body.pop()
    printed = StringIO()
    before = {id(each) for each in names.values()}
    with redirect_stdout(printed):
        exec(compile(tree, name, "exec"), names)  # noqa: S102 - the cells of our own tutorials
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), names)  # noqa: S307 - as above
    figures = [each for each in names.values() if isinstance(each, Figure) and id(each) not in before]
    for place, figure in enumerate(figures):
        figure.savefig(OUTPUTS / f"{name}-{place}.png", dpi=80)
    text = printed.getvalue()
    if value is not None and not isinstance(value, int | Figure):
        text += str(value)
    text = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
    output = {"text": text, "figures": [f"{name}-{place}.png" for place in range(len(figures))]}
    return {key: content for key, content in output.items() if content}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> None:
    """Run all tutorials."""
    OUTPUTS.mkdir(exist_ok=True)
    for script in sorted(TUTORIALS.glob("*.py")):
        with tempfile.TemporaryDirectory() as folder:
            execute(script, Path(folder))


if __name__ == "__main__":
    main()
