"""The page of results as HTML: template, style and scripts are in the folder ``files``."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

#: Folder of the template and what it contains.
FILES = Path(__file__).parent / "files"
#: Scripts in the order in which they are read.
SCRIPTS = ("base.js", "charts.js", "plots.js", "details.js", "table.js", "views.js", "main.js")
#: Characters that could end the element with the data, as JSON escapes.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render_page(document: dict[str, Any], *, title: str = "mmrs-bench report") -> str:
    """The page of a document that `mmrs_bench.evaluation.report.page.document.build_document` made.

    The page loads nothing: its content security policy allows only the scripts and the style that it contains. Texts of
    the document stand in an element with data, and the scripts show them as texts, never as HTML.

    Args:
        document: The document.
        title: Title of the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    style = (FILES / "report.css").read_text(encoding="utf-8")
    script = "\n".join((FILES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{script}\n}})();'
    data = json.dumps(document, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        data = data.replace(character, escape)
    # The template marks style, script and data as safe: they come from the package, and the data are escaped above.
    environment = Environment(loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html.j2").render(
        title=title,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        data=data,
    )


def _hash(text: str) -> str:
    """The SHA-256 of a text as a content security policy states it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
